"""Add clients, versions with their samples, aliases with their log, and idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _clients_and_versions()
    _aliases()
    _idempotency()


def downgrade() -> None:
    for table in ("idempotency", "alias_moves", "aliases", "samples", "versions", "clients"):
        op.drop_table(table)


def _clients_and_versions() -> None:
    op.create_table(
        "clients",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_clients"),
        sa.UniqueConstraint("name", name="uq_clients_name"),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.Column("meta_model", sa.Text(), nullable=False),
        sa.Column("meta_model_digest", sa.String(64), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("weights_digest", sa.String(64), nullable=False),
        sa.Column("weights_bytes", sa.BigInteger(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("batched_with", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_versions_clients", ondelete="CASCADE"),
        sa.UniqueConstraint("client_id", "number", name="uq_versions_client_id_number"),
    )
    op.create_table(
        "samples",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "position", name="pk_samples"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_samples_versions", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )


def _aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("client_id", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_aliases_clients", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["client_id", "version"], ["versions.client_id", "versions.number"], name="fk_aliases_versions"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Integer(), nullable=True),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("restores", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_alias_moves"),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_alias_moves_clients", ondelete="CASCADE"),
        sa.UniqueConstraint("client_id", "alias", "revision", name="uq_alias_moves_client_id_alias_revision"),
    )
    op.create_index("ix_alias_moves_client_id_version", "alias_moves", ["client_id", "version"])


def _idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_digest", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("live", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("client_id", "key", name="pk_idempotency"),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name="fk_idempotency_clients", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["client_id", "version"], ["versions.client_id", "versions.number"], name="fk_idempotency_versions"
        ),
        sqlite_with_rowid=False,
    )
