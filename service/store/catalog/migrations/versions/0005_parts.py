"""Add the part that a sample shows. Samples of earlier versions have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("samples", sa.Column("part", sa.String(64), nullable=True))


def downgrade() -> None:
    op.drop_column("samples", "part")
