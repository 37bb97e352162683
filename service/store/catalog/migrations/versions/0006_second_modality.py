"""Add what came with the image of a sample: a text or numbers. Samples of earlier versions have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("samples", sa.Column("second", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("samples", "second")
