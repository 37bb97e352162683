"""The catalog's tables, in names and types that SQLite and PostgreSQL share, and the checksum that every row carries.

Order is by integers (version numbers, revisions). Times are information and order nothing. Deleting a client's row
deletes everything that belongs to the client. ``migrations/`` creates these tables; a test compares the two.

The checksum of a row covers the table's name, the client's name (so that no row passes for another client's) and every
column except the numbers that only link rows. It detects decay, not tampering: a process that can write rows can write
checksums too. Its column is named ``seal``. See docs/decisions/0051-row-checksums.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
    true,
)
from sqlalchemy.exc import IntegrityError

from service.domain.version import SampleRef
from service.errors import VersionCorrupt

RowValues = Mapping[str, Any] | RowMapping
"""The values of a row, by column name."""


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite stores no zone, so it is added on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC. Raises ValueError for a time without a zone, which would depend on the machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; pass an aware datetime, such as datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC."""
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
    Column("latest", Integer, nullable=False),  # the highest version number used so far
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
    Column("part", String(64), nullable=True),
    Column("second", JSON(none_as_null=True), nullable=True),
    sqlite_with_rowid=False,  # the primary key holds the whole row
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
    Column("actor", String(64), nullable=True),
    Column("actor_name", String(64), nullable=True),
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
    Column("digest", String(64), nullable=False),  # of the whole key, which is not stored
    Column("name", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("clients", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime, nullable=True),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    UniqueConstraint("prefix"),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("actor_name", String(64), nullable=False),
    Column("request_id", String(64), nullable=True),
    Column("action", String(32), nullable=False),
    Column("client", String(64), nullable=True),  # a name, because the entry outlives the client
    Column("details", JSON, nullable=False),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    Index(None, "client"),
)

JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("job", String(32), primary_key=True),
    Column("client", String(64), nullable=False),  # a name, because the client may not exist before its first version
    Column("key", String(255), nullable=True),
    Column("worker", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("steps_done", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("loss", Double, nullable=True),
    Column("first_version", Integer, nullable=True),
    Column("first_live", Integer, nullable=True),
    Column("version", Integer, nullable=True),
    Column("live", Integer, nullable=True),
    Column("problem", JSON(none_as_null=True), nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),  # also the start of its worker's lease
    Column("seal", String(32), nullable=False, server_default=text("''")),
    Index(None, "client", "key"),
)

PREDICTIONS: Final = Table(
    "predictions",
    METADATA,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("client_id", Integer, ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("image_digest", String(64), nullable=False),
    Column("part", String(64), nullable=True),
    Column("station", String(64), nullable=True),
    Column("request_id", String(64), nullable=True),
    Column("version", Integer, nullable=False),
    Column("label", String(64), nullable=False),
    Column("confidence", Double, nullable=False),
    Column("unknown_score", Double, nullable=True),
    Column("verdict", String(8), nullable=False),
    Column("candidate_version", Integer, nullable=True),
    Column("candidate_label", String(64), nullable=True),
    Column("candidate_confidence", Double, nullable=True),
    Column("candidate_unknown_score", Double, nullable=True),
    Column("candidate_verdict", String(8), nullable=True),
    Column("seal", String(32), nullable=False, server_default=text("''")),
    Index(None, "client_id", "at", "id"),
    Index(None, "client_id", "part"),
    Index(None, "client_id", "image_digest"),
)

CHECKSUM_COLUMN: Final = "seal"

_CHECKSUM_BYTES: Final = 16
_LINKS: Final = frozenset({"id", "client_id", "version_id", CHECKSUM_COLUMN})
"""Columns that a checksum does not cover."""


def strict_json(value: Any) -> str:
    """Encode JSON that every database accepts: no NaN, no infinity. Keys keep their order."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def integrity_failure(error: IntegrityError) -> VersionCorrupt:
    """Translate a violated constraint. Writers of one client exclude each other, so a row must have been damaged."""
    reason = str(error.orig).strip().partition("\n")[0]
    return VersionCorrupt(f"rows of the catalog are inconsistent ({reason}); nothing was recorded; restore a backup")


def with_checksum(table: Table, owner: str, values: RowValues) -> dict[str, Any]:
    """Add the checksum to a row's values; every column of the table that it covers must be there."""
    return {**dict(values), CHECKSUM_COLUMN: row_checksum(table, owner, values)}


def verify_row(table: Table, owner: str, row: RowValues, what: str) -> None:
    """Compare a row with its checksum.

    Args:
        table: of the row.
        owner: the client's name, or empty.
        row: every column of the table.
        what: name of the row for error messages.

    Raises:
        VersionCorrupt: the row is not what was written.
    """
    if row[CHECKSUM_COLUMN] != row_checksum(table, owner, row):
        raise VersionCorrupt(f"the row of {what} is damaged: it does not match its checksum; restore a backup")


def row_checksum(table: Table, owner: str, values: RowValues) -> str:
    """Compute the checksum of a row. `owner` is the client's name, or empty."""
    covered = [values[column.name] for column in table.columns if column.name not in _LINKS]
    return _digest([table.name, owner, *covered])


def samples_checksum(samples: Sequence[SampleRef]) -> str:
    """Compute the checksum of a version's samples, in order. It is stored in the version's row."""
    return _digest(
        [
            [sample.digest, sample.label, sample.name, sample.part, *([] if sample.second is None else [sample.second])]
            for sample in samples
        ]
    )


def _digest(values: Sequence[Any]) -> str:
    encoded = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=_as_text)
    return hashlib.blake2b(encoded.encode("utf-8", "surrogatepass"), digest_size=_CHECKSUM_BYTES).hexdigest()


def _as_text(value: Any) -> str:
    """Encode a time. A damaged row may hold other types, such as bytes; no stored checksum matches those."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else repr(value)
