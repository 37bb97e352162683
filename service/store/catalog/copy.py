"""Copies a whole catalog, as of one moment, into a SQLite file, and loads such a file into either database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, delete, func, insert, select, text

from service.errors import InvalidRequest
from service.store.catalog.migrate import upgrade
from service.store.catalog.sqlite import SqliteDatabase
from service.store.catalog.tables import API_KEYS, AUDIT, CLIENTS, JOBS, METADATA
from service.store.ports import ALL_CLIENTS, Database

_ROWS_PER_INSERT: Final = 500


def export(database: Database, path: Path) -> None:
    """Write every row into a new file, as of one moment. On SQLite writers wait while the file is copied.

    Jobs are left out: they belong to processes that run now.
    """
    if isinstance(database, SqliteDatabase):
        database.copy_to(path)
        with opened(path) as copy, copy.writing(ALL_CLIENTS, erasing=True) as target:
            target.execute(delete(JOBS))
        return
    with opened(path) as copy, database.reading() as rows, copy.writing(ALL_CLIENTS) as target:
        _copy(rows, target)


@contextmanager
def opened(path: Path) -> Iterator[SqliteDatabase]:
    """Open a catalog file and upgrade it to this release's tables."""
    with closing(SqliteDatabase(path)) as database:
        upgrade(database)
        yield database


def load(database: Database, path: Path) -> None:
    """Insert every row of a file that `export` wrote, in one transaction.

    Raises:
        InvalidRequest: the catalog already has clients.
    """
    with opened(path) as copy, copy.reading() as rows, database.writing(ALL_CLIENTS) as target:
        existing = target.execute(select(func.count()).select_from(CLIENTS)).scalar_one()
        if existing:
            raise InvalidRequest(
                f"the store holds {existing} clients, and a backup is restored into an empty store only; name another "
                "folder with --data (or another catalog), or delete the clients first"
            )
        _copy(rows, target)


def _copy(source: Connection, target: Connection) -> None:
    for table in (table for table in METADATA.sorted_tables if table is not JOBS):
        kept = set(target.execute(select(API_KEYS.c.prefix)).scalars()) if table is API_KEYS else set()
        rows = source.execute(select(table).order_by(*table.primary_key.columns)).mappings()
        for part in rows.partitions(_ROWS_PER_INSERT):
            values = [_values(table, row) for row in part if row.get("prefix") not in kept]
            if values:
                target.execute(insert(table), values)
        if target.dialect.name == "postgresql" and "id" in table.c:
            _advance_sequence(target, table)


def _values(table: Table, row: Any) -> dict[str, Any]:
    """Return the values to insert. Keys and audit entries get new ids, because an empty store may have some already."""
    return {name: value for name, value in row.items() if table not in (API_KEYS, AUDIT) or name != "id"}


def _advance_sequence(target: Connection, table: Table) -> None:
    """Let the server number new rows after those that were inserted."""
    highest = target.execute(select(func.max(table.c.id))).scalar_one()
    if highest is not None:
        query = text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :highest)")
        target.execute(query, {"table": table.name, "highest": highest})
