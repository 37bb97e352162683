"""Add the settings of clients, and whether a version's samples are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "client_settings",
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("client_id", name="pk_client_settings"),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_client_settings_clients", ondelete="CASCADE"),
    )
    op.add_column("versions", sa.Column("samples_kept", sa.Boolean(), nullable=False, server_default=sa.true()))


def downgrade() -> None:
    op.drop_column("versions", "samples_kept")
    op.drop_table("client_settings")
