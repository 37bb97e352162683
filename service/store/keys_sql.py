"""The keys' rows in the catalog's database. It knows no key, only what is kept of one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import Row, insert, select, update

from service.access import KeyRecord
from service.errors import InvalidKey, UnknownKey
from service.store.catalog_tables import API_KEYS
from service.store.clock import utc_now
from service.store.database import Database
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
            connection.execute(insert(API_KEYS).values(row))

    def all(self) -> tuple[KeyRecord, ...]:
        """See `Keys.all`."""
        with self._database.reading() as connection:
            return tuple(_record(row) for row in connection.execute(select(API_KEYS).order_by(API_KEYS.c.id)))

    def revoke(self, prefix: str) -> KeyRecord:
        """See `Keys.revoke`."""
        mine = API_KEYS.c.prefix == prefix
        with self._database.writing(_SCOPE) as connection:
            good = update(API_KEYS).where(mine, API_KEYS.c.revoked_at.is_(None))
            connection.execute(good.values(revoked_at=self._clock()))
            row = connection.execute(select(API_KEYS).where(mine)).one_or_none()
        if row is None:
            raise UnknownKey(f"no key is called {prefix[:80]!r}; `anole keys list` shows them")
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


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        row.prefix, row.digest, row.name, tuple(row.scopes), tuple(row.clients), row.created_at, row.revoked_at
    )
