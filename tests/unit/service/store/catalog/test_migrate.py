"""Creating and upgrading the catalog's tables."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from service.errors import StoreIncompatible
from service.store.catalog import sqlite as database_sqlite
from service.store.catalog.migrate import upgrade
from service.store.catalog.sqlite import SqliteDatabase
from service.store.catalog.tables import METADATA
from service.store.ports import ALL_CLIENTS


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    opened = SqliteDatabase(tmp_path / "catalog.sqlite3")
    yield opened
    opened.close()


def tables(database: SqliteDatabase) -> set[str]:
    with database.reading() as connection:
        return set(inspect(connection).get_table_names())


def test_every_constraint_has_the_name_that_its_table_says(database: SqliteDatabase) -> None:
    upgrade(database)
    with database.reading() as connection:
        inspector = inspect(connection)
        for table in METADATA.sorted_tables:
            found = {inspector.get_pk_constraint(table.name)["name"]}
            found |= {key["name"] for key in inspector.get_foreign_keys(table.name)}
            found |= {key["name"] for key in inspector.get_unique_constraints(table.name)}
            assert found == {str(constraint.name) for constraint in table.constraints}


def test_upgrading_again_changes_nothing(database: SqliteDatabase) -> None:
    upgrade(database)
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql(
            "INSERT INTO clients (id, name, created_at, latest) VALUES (1, 'line-1', '2026-01-01 00:00:00.000000', 0)"
        )
    upgrade(database)
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT name FROM clients").scalar_one() == "line-1"


@pytest.mark.parametrize("first_safe_with_wal", [(3,), (99,)])
def test_processes_that_start_at_the_same_time_upgrade_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_safe_with_wal: tuple[int, ...]
) -> None:
    monkeypatch.setattr(database_sqlite, "FIRST_VERSION_SAFE_WITH_WAL", first_safe_with_wal)
    opened = [SqliteDatabase(tmp_path / "catalog.sqlite3") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(upgrade, opened))
    assert all(tables(database) == {*METADATA.tables, "alembic_version"} for database in opened)
    for database in opened:
        database.close()


def test_an_upgrade_that_fails_leaves_the_catalog_unchanged(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(Operations, "create_index", fail)
        with pytest.raises(KeyError):
            upgrade(database)
    assert tables(database) == set()
    upgrade(database)
    assert tables(database) == {*METADATA.tables, "alembic_version"}


def test_a_catalog_of_a_newer_release_is_rejected_unchanged(database: SqliteDatabase) -> None:
    upgrade(database)
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(StoreIncompatible, match=r"'0999'.*newer release"):
        upgrade(database)
    with database.reading() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0999"


def test_another_database_is_rejected_unchanged(database: SqliteDatabase) -> None:
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("CREATE TABLE invoices (id INTEGER)")
    with pytest.raises(StoreIncompatible, match="invoices"):
        upgrade(database)
    assert tables(database) == {"invoices"}
