"""Wrong read_results of the catalog after one changed column, with and without checksums; and the time of a checksum.

    python -m benchmarks.row_checksums

On SQLite, it changes one column of one row at a time and compares every read with its answer before.
"""

from __future__ import annotations

import tempfile
import timeit
from contextlib import closing
from pathlib import Path

from sqlalchemy import Column, Table, create_engine, select

from service.store.catalog import queries, tables
from service.store.catalog.migrate import upgrade
from service.store.catalog.sqlite import SqliteDatabase
from service.store.catalog.tables import VERSIONS, row_checksum
from tests.contract.values import CLIENT
from tests.damaged_rows import CHECKED_COLUMNS, change, filled, read_results, wrong_results

REPEATS = 2000


def main() -> None:
    """Print the number of changes that give a wrong answer, and the time of a checksum in microseconds."""
    verify = tables.verify_row
    for name, function in (("with", verify), ("without", lambda *_: None)):
        setattr(queries, "verify_row", function)  # noqa: B010 - a name that queries imports
        wrong = sum(gives_wrong_answer(table, column) for table, column in CHECKED_COLUMNS)
        print(f"{name} checksums: {wrong} of {len(CHECKED_COLUMNS)} changed columns give a wrong answer")
    setattr(queries, "verify_row", verify)  # noqa: B010
    print(f"checksum of a version's row: {checksum_us():.0f} us, median of 5 x {REPEATS}")


def gives_wrong_answer(table: Table, column: Column[object]) -> bool:
    """Change one column of a new catalog and read everything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.sqlite3"
        with closing(SqliteDatabase(path)) as database:
            upgrade(database)
            catalog, _ = filled(database)
            before = read_results(catalog)
            engine = create_engine(f"sqlite:///{path}")  # enforces no foreign keys
            with engine.begin() as connection:
                change(connection, table, column)
            engine.dispose()
            return bool(wrong_results(before, read_results(catalog)))


def checksum_us() -> float:
    """Time the checksum of a version's row."""
    with tempfile.TemporaryDirectory() as folder, closing(SqliteDatabase(Path(folder) / "catalog.sqlite3")) as database:
        upgrade(database)
        filled(database)
        with database.reading() as connection:
            row = connection.execute(select(VERSIONS)).mappings().first()
    assert row is not None
    times_s = timeit.repeat(lambda: row_checksum(VERSIONS, CLIENT, row), number=REPEATS, repeat=5)
    return sorted(times_s)[2] / REPEATS * 1e6


if __name__ == "__main__":
    main()
