"""The catalog's tables, in types and names that SQLite and PostgreSQL share. Knows no query and no connection.

Order is by integers (version numbers, revisions); the times are information and order nothing. Deleting a client's
row takes everything of the client with it. ``migrations/`` makes these tables; a test compares the two. Every row has a
seal over what it says (``row_seals.py``); samples share one, in the row of their version.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
    true,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, kept in UTC; SQLite stores no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses a time without a zone, whose meaning would depend on the machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; pass an aware datetime, such as datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Gives UTC back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

CLIENTS: Final = Table(
    "clients",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("latest", Integer, nullable=False),  # the highest version number given; the next one is taken from here
    Column("seal", String(32), nullable=False, server_default=text("''")),
    UniqueConstraint("name"),
)

VERSIONS: Final = Table(
    "versions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("client_id", Integer, ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime, nullable=True),
    Column("parent", Integer, nullable=True),
    Column("classes", JSON, nullable=False),
    Column("meta_model", Text, nullable=False),
    Column("meta_model_digest", String(64), nullable=False),
    Column("recipe", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("weights_digest", String(64), nullable=False),
    Column("weights_bytes", BigInteger, nullable=False),
    Column("device", Text, nullable=False),
    Column("batched_with", Integer, nullable=False),
    Column("report", JSON, nullable=False),
    Column("samples_kept", Boolean, nullable=False, server_default=true()),
    Column("samples_seal", String(32), nullable=False, server_default=text("''")),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    UniqueConstraint("client_id", "number"),
)

SAMPLES: Final = Table(
    "samples",
    METADATA,
    Column("version_id", Integer, ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("label", String(64), nullable=False),
    Column("name", Text, nullable=False),
    sqlite_with_rowid=False,  # the key is the row: no second tree for it
)

ALIASES: Final = Table(
    "aliases",
    METADATA,
    Column("client_id", Integer, ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    ForeignKeyConstraint(["client_id", "version"], ["versions.client_id", "versions.number"]),
    sqlite_with_rowid=False,
)

ALIAS_MOVES: Final = Table(
    "alias_moves",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("client_id", Integer, ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("previous", Integer, nullable=True),
    Column("moved_at", UtcDateTime, nullable=False),
    Column("reason", String(16), nullable=False),
    Column("restores", Integer, nullable=True),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    UniqueConstraint("client_id", "alias", "revision"),
    Index(None, "client_id", "version"),
)

IDEMPOTENCY: Final = Table(
    "idempotency",
    METADATA,
    Column("client_id", Integer, ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_digest", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("live", Integer, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    ForeignKeyConstraint(["client_id", "version"], ["versions.client_id", "versions.number"]),
    sqlite_with_rowid=False,
)

CLIENT_SETTINGS: Final = Table(
    "client_settings",
    METADATA,
    Column("client_id", Integer, ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("settings", JSON, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("seal", String(32), nullable=False, server_default=text("''")),
)

API_KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("prefix", String(14), nullable=False),
    Column("digest", String(64), nullable=False),  # of the whole key, which is kept nowhere
    Column("name", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("clients", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime, nullable=True),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    UniqueConstraint("prefix"),
)
