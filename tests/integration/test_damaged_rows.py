"""Changed bits in the catalog's rows and file: a check finds them, and no read returns a wrong result."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, Table, create_engine, delete, insert, make_url, select, text

from service.domain.key import KeyRecord
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


def unchecked(path_or_url: Path | str) -> Engine:
    """Return an engine whose connections enforce no constraint between rows."""
    if isinstance(path_or_url, Path):
        return create_engine(f"sqlite:///{path_or_url}")
    url = make_url(path_or_url).set(drivername="postgresql+psycopg")
    return create_engine(url, connect_args={"options": "-c session_replication_role=replica"})


@contextmanager
def unchecked_connection(database: Database, request: pytest.FixtureRequest) -> Iterator[Connection]:
    name = "catalog_file" if isinstance(database, SqliteDatabase) else "catalog_url"
    engine = unchecked(request.getfixturevalue(name))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@dataclass(frozen=True)
class Filled:
    """A filled catalog that many tests change and repair: making one takes longer than most of them."""

    database: Database
    record: KeyRecord
    engine: Engine

    @contextmanager
    def changed(self, table: Table, change: Callable[[Connection], object]) -> Iterator[None]:
        """Change the rows of a table for the length of the block."""
        with self.engine.begin() as connection:
            rows = [dict(row) for row in connection.execute(select(table)).mappings()]
            change(connection)
        try:
            yield
        finally:
            with self.engine.begin() as connection:
                connection.execute(delete(table))
                connection.execute(insert(table), rows)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    database: Database
    if request.param == "sqlite":
        path = shutil.copyfile(sqlite_template, tmp_path_factory.mktemp("shared") / CATALOG_FILE)
        database, engine = SqliteDatabase(path), unchecked(path)
    else:
        server = request.getfixturevalue("postgres")
        url = server.url(server.new_database(request.getfixturevalue("catalog_template")))
        database, engine = PostgresDatabase(make_url(url)), unchecked(url)
    _, record = filled(database)
    yield Filled(database, record, engine)
    engine.dispose()
    database.close()


@pytest.mark.parametrize(("table", "column"), CHECKED_COLUMNS, ids=lambda part: getattr(part, "name", str(part)))
def test_a_changed_column_gives_no_wrong_result_and_a_check_finds_it(
    shared: Filled, table: Table, column: Column[Any]
) -> None:
    catalog = Catalog(shared.database)
    before = read_results(catalog)
    assert catalog.problems() == ()
    with shared.changed(table, lambda connection: change(connection, table, column)):
        assert wrong_results(before, read_results(catalog)) == set()
        assert SqlKeys(shared.database).all() in ((shared.record,), ())
        assert catalog.problems() != ()


@pytest.mark.parametrize("table", [table for table in METADATA.sorted_tables if table.name != "clients"], ids=str)
def test_a_check_finds_a_missing_row(shared: Filled, table: Table) -> None:
    """A deleted row leaves no checksum, but a gap in a count. Deleted settings, keys, jobs and logs leave neither."""

    def delete_first(connection: Connection) -> None:
        first = connection.execute(select(table).order_by(*table.primary_key.columns).limit(1)).mappings().one()
        connection.execute(delete(table).where(*(key == first[key.name] for key in table.primary_key.columns)))

    counted = table.name not in {"idempotency", "client_settings", "api_keys", "jobs", "audit", "predictions"}
    with shared.changed(table, delete_first):
        assert (Catalog(shared.database).problems() != ()) == counted


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
