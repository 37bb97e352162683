"""A whole catalog into a SQLite file, as it is at one moment, and out of one again, from and to either database.

Knows which database copies itself best, and no row's meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, func, insert, select, text

from service.errors import InvalidRequest
from service.store.catalog.database import TABLES, Database
from service.store.catalog.migrate import upgrade
from service.store.catalog.sqlite import SqliteDatabase
from service.store.catalog.tables import API_KEYS, CLIENTS, METADATA

_ROWS_AT_ONCE: Final = 500


def export(database: Database, path: Path) -> None:
    """Write every row into a new file, as of one moment; writers go on, on SQLite after the time a file copy takes."""
    if isinstance(database, SqliteDatabase):
        database.copy_to(path)
        return
    with opened(path) as copy, database.reading() as rows, copy.writing(TABLES) as target:
        _copy(rows, target)


@contextmanager
def opened(path: Path) -> Iterator[SqliteDatabase]:
    """A file of a catalog, with this release's tables."""
    with closing(SqliteDatabase(path)) as database:
        upgrade(database)
        yield database


def load(database: Database, path: Path) -> None:
    """Take over every row of a file that `export` wrote, in one transaction.

    Raises:
        InvalidRequest: there are clients already.
    """
    with opened(path) as copy, copy.reading() as rows, database.writing(TABLES) as target:
        there = target.execute(select(func.count()).select_from(CLIENTS)).scalar_one()
        if there:
            raise InvalidRequest(
                f"the store holds {there} clients and a backup is restored into an empty one; name another folder "
                "with --data (or another catalog), or delete them first"
            )
        _copy(rows, target)


def _copy(source: Connection, target: Connection) -> None:
    for table in METADATA.sorted_tables:
        kept = set(target.execute(select(API_KEYS.c.prefix)).scalars()) if table is API_KEYS else set()
        rows = source.execute(select(table).order_by(*table.primary_key.columns)).mappings()
        for part in rows.partitions(_ROWS_AT_ONCE):
            values = [_values(table, row) for row in part if row.get("prefix") not in kept]
            if values:
                target.execute(insert(table), values)
        if target.dialect.name == "postgresql" and "id" in table.c:
            _count_on(target, table)


def _values(table: Table, row: Any) -> dict[str, Any]:
    """A row to insert; keys are told apart by their prefixes, and those there may have taken the numbers."""
    return {name: value for name, value in row.items() if table is not API_KEYS or name != "id"}


def _count_on(target: Connection, table: Table) -> None:
    """Let the server go on counting after the numbers that came with the rows."""
    highest = target.execute(select(func.max(table.c.id))).scalar_one()
    if highest is not None:
        query = text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :highest)")
        target.execute(query, {"table": table.name, "highest": highest})
