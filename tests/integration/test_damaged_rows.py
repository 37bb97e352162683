"""Changed bits in the catalog's rows and file: a check finds them, and no read returns a wrong result."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Table, create_engine, delete, make_url, select, text

from service.domain.version import LIVE
from service.errors import StoreUnavailable, VersionCorrupt
from service.store.catalog.catalog import Catalog
from service.store.catalog.keys import SqlKeys
from service.store.catalog.migrate import upgrade
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sqlite import SqliteDatabase
from service.store.catalog.tables import METADATA
from service.store.open_store import CATALOG_FILE, open_embedded
from service.store.ports import Database
from tests.contract.values import CLIENT, a_draft
from tests.damaged_rows import CHECKED_COLUMNS, OTHER, change, filled, read_results, wrong_results
from tests.integration.store_child import publish

FLIPS = 50


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, catalog_file: Path) -> Iterator[Database]:
    opened: Database
    if request.param == "sqlite":
        opened = SqliteDatabase(catalog_file)
    else:
        opened = PostgresDatabase(make_url(request.getfixturevalue("catalog_url")))
    yield opened
    opened.close()


@contextmanager
def unchecked_connection(database: Database, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """Open a connection that enforces no constraint between rows."""
    if isinstance(database, SqliteDatabase):
        engine = create_engine(f"sqlite:///{request.getfixturevalue('tmp_path')}/catalog.sqlite3")
    else:
        url = make_url(request.getfixturevalue("catalog_url")).set(drivername="postgresql+psycopg")
        engine = create_engine(url, connect_args={"options": "-c session_replication_role=replica"})
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize(("table", "column"), CHECKED_COLUMNS, ids=lambda part: getattr(part, "name", str(part)))
def test_a_changed_column_gives_no_wrong_result_and_a_check_finds_it(
    database: Database, request: pytest.FixtureRequest, table: Table, column: Column[Any]
) -> None:
    catalog, record = filled(database)
    before = read_results(catalog)
    assert catalog.problems() == ()
    with unchecked_connection(database, request) as connection:
        change(connection, table, column)
    assert wrong_results(before, read_results(catalog)) == set()
    assert SqlKeys(database).all() in ((record,), ())
    assert catalog.problems() != ()


@pytest.mark.parametrize("table", [table for table in METADATA.sorted_tables if table.name != "clients"], ids=str)
def test_a_check_finds_a_missing_row(database: Database, request: pytest.FixtureRequest, table: Table) -> None:
    """A deleted row leaves no checksum, but a gap in a count. Deleted settings, keys, jobs and logs leave neither."""
    catalog, _ = filled(database)
    with unchecked_connection(database, request) as connection:
        first = connection.execute(select(table).order_by(*table.primary_key.columns).limit(1)).mappings().one()
        connection.execute(delete(table).where(*(key == first[key.name] for key in table.primary_key.columns)))
    if table.name not in {"idempotency", "client_settings", "api_keys", "jobs", "audit", "predictions"}:
        assert catalog.problems() != ()


def test_rows_moved_to_another_client_give_no_wrong_result(database: Database, request: pytest.FixtureRequest) -> None:
    catalog, _ = filled(database)
    catalog.publish(a_draft(OTHER, weights="third"), [LIVE])
    before = read_results(catalog)
    with unchecked_connection(database, request) as connection:
        ids = {row.name: row.id for row in connection.execute(text("SELECT name, id FROM clients"))}
        for table in ("aliases", "alias_moves", "versions"):
            connection.execute(text(f"UPDATE {table} SET client_id = 0 WHERE client_id = {ids[CLIENT]}"))
            connection.execute(text(f"UPDATE {table} SET client_id = {ids[CLIENT]} WHERE client_id = {ids[OTHER]}"))
    after = read_results(catalog)
    assert after["served live"] is VersionCorrupt
    assert wrong_results(before, after) == set()


def test_nothing_is_collected_from_a_catalog_with_a_damaged_row(tmp_path: Path) -> None:
    """A changed digest, or name of a client, would make good blobs look like leftovers."""
    with open_embedded(tmp_path) as store:
        publish(store, 1)
    stored = sorted((tmp_path / "blobs" / CLIENT).iterdir())
    for statement in (
        "UPDATE versions SET weights_digest = 'f' || substr(weights_digest, 2)",
        "UPDATE clients SET name = 'mine-1'",
    ):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("copy"))
        with closing(sqlite3.connect(folder / CATALOG_FILE)) as connection:
            connection.execute(statement)
            connection.commit()
        with open_embedded(folder) as store:
            with pytest.raises(VersionCorrupt, match="nothing was removed"):
                store.collect(grace_s=0.0)
            assert not store.check().whole
        assert [path.name for path in sorted((folder / "blobs" / CLIENT).iterdir())] == [path.name for path in stored]


def test_a_client_with_damaged_rows_can_be_deleted(database: Database, request: pytest.FixtureRequest) -> None:
    catalog, _ = filled(database)
    with unchecked_connection(database, request) as connection:
        connection.execute(text("UPDATE clients SET latest = 7 WHERE name = 'line-1'"))
    with pytest.raises(VersionCorrupt):
        catalog.client(CLIENT)
    assert catalog.delete_client(CLIENT) == 2
    assert [client.name for client in catalog.clients()] == [OTHER]
    assert catalog.problems() == ()


def test_a_changed_bit_in_the_file_gives_no_wrong_result_and_a_check_finds_it(tmp_path: Path) -> None:
    """Random bits of SQLite's file: in rows, in trees, in the file's header and in free pages."""
    path = tmp_path / CATALOG_FILE
    with closing(SqliteDatabase(path)) as database:
        upgrade(database)
        catalog, _ = filled(database)
        before = read_results(catalog)
        rows = dump(database)
    content = path.read_bytes()
    generator = random.Random(7)
    copies = tmp_path / "copies"
    found = 0
    for number in range(FLIPS):
        position = generator.randrange(len(content) * 8)
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        folder = copies / str(number)
        folder.mkdir(parents=True)
        (folder / CATALOG_FILE).write_bytes(flipped)
        found += damage_is_found(folder / CATALOG_FILE, before, rows)
        shutil.rmtree(folder)
    assert found > FLIPS // 20


def dump(database: Database) -> list[Any]:
    with database.reading() as connection:
        return [connection.execute(select(table)).all() for table in METADATA.sorted_tables]


def damage_is_found(path: Path, before: dict[str, Any], rows: list[Any]) -> bool:
    """Open a catalog with a changed bit and compare its results with those before; return whether a check finds it."""
    try:
        with closing(SqliteDatabase(path, busy_timeout_s=0.1)) as database:
            upgrade(database)
            catalog = Catalog(database)
            assert wrong_results(before, read_results(catalog)) == set()
            if catalog.problems():
                return True
            assert dump(database) == rows, "a changed row that the check did not find"
            return False
    except (StoreUnavailable, VersionCorrupt):  # found when the catalog is opened
        return True
