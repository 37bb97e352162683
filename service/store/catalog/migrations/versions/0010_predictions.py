"""Add the prediction log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0007"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("image_digest", sa.String(64), nullable=False),
        sa.Column("part", sa.String(64), nullable=True),
        sa.Column("station", sa.String(64), nullable=True),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("unknown_score", sa.Double(), nullable=True),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("candidate_version", sa.Integer(), nullable=True),
        sa.Column("candidate_label", sa.String(64), nullable=True),
        sa.Column("candidate_confidence", sa.Double(), nullable=True),
        sa.Column("candidate_unknown_score", sa.Double(), nullable=True),
        sa.Column("candidate_verdict", sa.String(8), nullable=True),
        sa.Column("seal", sa.String(32), nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("id", name="pk_predictions"),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_predictions_clients", ondelete="CASCADE"),
    )
    op.create_index("ix_predictions_client_id_at_id", "predictions", ["client_id", "at", "id"])
    op.create_index("ix_predictions_client_id_part", "predictions", ["client_id", "part"])
    op.create_index("ix_predictions_client_id_image_digest", "predictions", ["client_id", "image_digest"])


def downgrade() -> None:
    op.drop_table("predictions")
