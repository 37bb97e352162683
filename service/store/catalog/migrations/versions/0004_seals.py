"""Add a checksum to every row, in the column ``seal``. ``migrate.py`` computes it for the rows that exist."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SEALED = ("clients", "versions", "aliases", "alias_moves", "idempotency", "client_settings", "api_keys")


def upgrade() -> None:
    op.add_column("versions", sa.Column("samples_seal", sa.String(32), nullable=False, server_default=sa.text("''")))
    for table in SEALED:
        op.add_column(table, sa.Column("seal", sa.String(32), nullable=False, server_default=sa.text("''")))


def downgrade() -> None:
    for table in SEALED:
        op.drop_column(table, "seal")
    op.drop_column("versions", "samples_seal")
