"""The keys' rows in the catalog's database. It knows no key, only what is kept of one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from sqlalchemy import insert, select, update

from service.domain.key import KeyRecord
from service.errors import InvalidKey, UnknownKey
from service.store.catalog.database import Database
from service.store.catalog.row_checksums import Values, row_seal, sealed
from service.store.catalog.tables import API_KEYS
from service.store.clock import utc_now
from service.store.ports import Keys

_SCOPE: Final = "api_keys, whosever"
"""What a writer keeps others out of; no client is called so."""


class SqlKeys(Keys):
    """See `Keys`; every method is one transaction of `database`.

    Args:
        database: already migrated to this release's tables; `close` closes it.
        clock: gives the time of a revocation.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    def add(self, record: KeyRecord) -> None:
        """See `Keys.add`."""
        with self._database.writing(_SCOPE) as connection:
            taken = select(API_KEYS.c.id).where(API_KEYS.c.prefix == record.prefix)
            if connection.execute(taken).first() is not None:
                raise InvalidKey(f"another key is called {record.prefix}; make a new one")
            row = {
                "prefix": record.prefix,
                "digest": record.digest,
                "name": record.name,
                "scopes": list(record.scopes),
                "clients": list(record.clients),
                "created_at": record.created_at,
                "revoked_at": record.revoked_at,
            }
            connection.execute(insert(API_KEYS).values(sealed(API_KEYS, "", row)))

    def all(self) -> tuple[KeyRecord, ...]:
        """See `Keys.all`; a row that is damaged is no key, so nobody gains by a changed bit."""
        with self._database.reading() as connection:
            rows = connection.execute(select(API_KEYS).order_by(API_KEYS.c.id)).mappings().all()
        return tuple(_record(row) for row in rows if row["seal"] == row_seal(API_KEYS, "", row))

    def revoke(self, prefix: str) -> KeyRecord:
        """See `Keys.revoke`."""
        mine = API_KEYS.c.prefix == prefix
        with self._database.writing(_SCOPE) as connection:
            found = connection.execute(select(API_KEYS).where(mine)).mappings().one_or_none()
            if found is None:
                raise UnknownKey(f"no key is called {prefix[:80]!r}; `anole keys list` shows them")
            row = sealed(API_KEYS, "", {**found, "revoked_at": found["revoked_at"] or self._clock()})
            connection.execute(update(API_KEYS).where(mine).values(revoked_at=row["revoked_at"], seal=row["seal"]))
        return _record(row)

    def close(self) -> None:
        """See `Keys.close`."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _record(row: Values) -> KeyRecord:
    return KeyRecord(
        prefix=row["prefix"],
        digest=row["digest"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        clients=tuple(row["clients"]),
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )
