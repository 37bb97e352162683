"""Add the audit log, and who moved an alias. Moves of earlier releases have no actor."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("actor_name", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("client", sa.String(64), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("seal", sa.String(32), nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_client", "audit", ["client"])
    op.add_column("alias_moves", sa.Column("actor", sa.String(64), nullable=True))
    op.add_column("alias_moves", sa.Column("actor_name", sa.String(64), nullable=True))


def downgrade() -> None:
    op.drop_column("alias_moves", "actor_name")
    op.drop_column("alias_moves", "actor")
    op.drop_table("audit")
