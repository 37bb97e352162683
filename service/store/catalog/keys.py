"""API keys in the catalog's database: a digest of each key, its scopes and its clients; never the key itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, Self

from sqlalchemy import insert, select, update

from service.domain.key import KeyRecord
from service.errors import InvalidKey, UnknownKey
from service.store.catalog import audit
from service.store.catalog.tables import API_KEYS, CHECKSUM_COLUMN, RowValues, row_checksum, with_checksum
from service.store.ports import Database, Keys, utc_now

_SCOPE: Final = "api_keys *"
"""The scope that writers of keys exclude each other from. No client has this name."""


class SqlKeys(Keys):
    """See `Keys`. Every method is one transaction of `database`.

    Args:
        database: already migrated to this release's tables; `close` closes it.
        clock: gives the time of a revocation.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    def add(self, record: KeyRecord) -> None:
        with self._database.writing(_SCOPE) as connection:
            taken = select(API_KEYS.c.id).where(API_KEYS.c.prefix == record.prefix)
            if connection.execute(taken).first() is not None:
                raise InvalidKey(f"another key has the prefix {record.prefix}; create a new key")
            row = {
                "prefix": record.prefix,
                "digest": record.digest,
                "name": record.name,
                "scopes": list(record.scopes),
                "clients": list(record.clients),
                "created_at": record.created_at,
                "revoked_at": record.revoked_at,
            }
            connection.execute(insert(API_KEYS).values(with_checksum(API_KEYS, "", row)))
            granted = {"key": record.prefix, **{name: row[name] for name in ("name", "scopes", "clients")}}
            audit.record(connection, self._clock(), "key.create", None, granted)

    def all(self) -> tuple[KeyRecord, ...]:
        """See `Keys.all`. Damaged rows are left out, so that a changed bit cannot grant access."""
        with self._database.reading() as connection:
            rows = connection.execute(select(API_KEYS).order_by(API_KEYS.c.id)).mappings().all()
        return tuple(_record(row) for row in rows if row[CHECKSUM_COLUMN] == row_checksum(API_KEYS, "", row))

    def revoke(self, prefix: str) -> KeyRecord:
        this = API_KEYS.c.prefix == prefix
        with self._database.writing(_SCOPE) as connection:
            found = connection.execute(select(API_KEYS).where(this)).mappings().one_or_none()
            if found is None:
                raise UnknownKey(f"there is no key with the prefix {prefix[:80]!r}; `anole keys list` shows all keys")
            row = with_checksum(API_KEYS, "", {**found, "revoked_at": found["revoked_at"] or self._clock()})
            connection.execute(update(API_KEYS).where(this).values(revoked_at=row["revoked_at"], seal=row["seal"]))
            if found["revoked_at"] is None:
                audit.record(connection, self._clock(), "key.revoke", None, {"key": prefix, "name": found["name"]})
        return _record(row)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _record(row: RowValues) -> KeyRecord:
    return KeyRecord(
        prefix=row["prefix"],
        digest=row["digest"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        clients=tuple(row["clients"]),
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )
