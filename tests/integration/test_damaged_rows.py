"""Changed bits in the catalog's rows and file: a check finds them, and no read returns a wrong answer."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, Table, create_engine, delete, make_url, select, text

from models.errors import AnoleError
from service.domain.client import ClientSettings
from service.domain.key import Grant, KeyRecord, new_key, record_of
from service.domain.version import LIVE, Idempotency
from service.errors import StoreUnavailable, VersionCorrupt
from service.store.catalog.catalog import SqlCatalog
from service.store.catalog.database import Database
from service.store.catalog.keys import SqlKeys
from service.store.catalog.migrate import upgrade
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sqlite import SqliteDatabase
from service.store.catalog.tables import METADATA, SAMPLES
from service.store.open_store import CATALOG_FILE, open_embedded
from service.store.ports import utc_now
from tests.contract.values import CLIENT, a_draft, digest_of
from tests.integration.store_child import publish

KEY = Idempotency("key-1", digest_of("body"))
OTHER = "line-2"
FLIPS = 50
TIES = {"id", "client_id", "version_id"}
SAYING = [
    (table, column)
    for table in METADATA.sorted_tables
    for column in table.columns
    if column.name not in TIES and (table is not SAMPLES or column.name != "position")
]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened: Database
    if request.param == "sqlite":
        opened = SqliteDatabase(tmp_path / "catalog.sqlite3")
        upgrade(opened)
    else:
        opened = PostgresDatabase(make_url(request.getfixturevalue("catalog_url")))
    yield opened
    opened.close()


def filled(database: Database) -> tuple[SqlCatalog, KeyRecord]:
    catalog = SqlCatalog(database)
    for client in (CLIENT, OTHER):
        catalog.publish(a_draft(client), [LIVE], idempotency=KEY)
        catalog.publish(a_draft(client, weights="second"), [LIVE])
        catalog.update_settings(client, ClientSettings(keep_last=5))
    record = record_of(new_key(), Grant("camera", ("predict",), (CLIENT,)), utc_now())
    SqlKeys(database).add(record)
    return catalog, record


def needed(catalog: SqlCatalog) -> frozenset[str]:
    with catalog.holding(CLIENT) as digests:
        return digests


READS: dict[str, Callable[[SqlCatalog], Any]] = {
    "clients": lambda catalog: [replace(client, versions=0) for client in catalog.clients()],
    "client": lambda catalog: replace(catalog.client(CLIENT), versions=0),
    "versions": lambda catalog: catalog.versions(CLIENT),
    "first": lambda catalog: catalog.version(CLIENT, 1),
    "latest": lambda catalog: catalog.latest(CLIENT),
    "served live": lambda catalog: catalog.served(CLIENT, LIVE),
    "served first": lambda catalog: catalog.served(CLIENT, 1),
    "alias": lambda catalog: catalog.alias(CLIENT, LIVE),
    "history": lambda catalog: catalog.history(CLIENT),
    "recall": lambda catalog: catalog.recall(CLIENT, KEY),
    "settings": lambda catalog: catalog.settings(CLIENT),
    "needed": needed,
}


def answers(catalog: SqlCatalog) -> dict[str, Any]:
    """Return the result of every read; for a read that raises, the class of its error."""
    found: dict[str, Any] = {}
    for name, read in READS.items():
        try:
            found[name] = read(catalog)
        except AnoleError as error:
            found[name] = type(error)
    return found


def changed(value: Any) -> Any:
    """A value like that one, and another."""
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 4
    if isinstance(value, str):
        return chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
    if isinstance(value, dict):
        return {**value, "steps": 99}
    if isinstance(value, list):
        return [*value, "more"]
    return value.replace(year=value.year + 1)


def change(connection: Connection, table: Table, column: Column[Any]) -> None:
    """Change one column of the first row of a table."""
    first = select(table).order_by(*table.primary_key.columns).limit(1)
    row = connection.execute(first).mappings().one()
    this = [key == row[key.name] for key in table.primary_key.columns]
    value = changed(row[column.name])
    if row[column.name] is None and not isinstance(column.type, Integer):
        value = utc_now()
    connection.execute(table.update().where(*this).values({column.name: value}))


@contextmanager
def behind_its_back(database: Database, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection that keeps no rule between rows."""
    if isinstance(database, SqliteDatabase):
        engine = create_engine(f"sqlite:///{request.getfixturevalue('tmp_path')}/catalog.sqlite3")
    else:
        url = make_url(request.getfixturevalue("catalog_url")).set(drivername="postgresql+psycopg")
        engine = create_engine(url, connect_args={"options": "-c session_replication_role=replica"})
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def believed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The reads that give something else than before, and neither refuse nor find nothing."""
    return {name for name in before if after[name] != before[name] and after[name] and type(after[name]) is not type}


@pytest.mark.parametrize(("table", "column"), SAYING, ids=lambda part: getattr(part, "name", str(part)))
def test_a_changed_column_gives_no_wrong_answer_and_a_check_finds_it(
    database: Database, request: pytest.FixtureRequest, table: Table, column: Column[Any]
) -> None:
    catalog, record = filled(database)
    before = answers(catalog)
    assert catalog.problems() == ()
    with behind_its_back(database, request) as connection:
        change(connection, table, column)
    assert believed(before, answers(catalog)) == set()
    assert SqlKeys(database).all() in ((record,), ())
    assert catalog.problems() != ()


@pytest.mark.parametrize("table", [table for table in METADATA.sorted_tables if table.name != "clients"], ids=str)
def test_a_check_finds_a_missing_row(database: Database, request: pytest.FixtureRequest, table: Table) -> None:
    """A deleted row leaves no checksum, but a gap in a count. Deleted settings and keys leave neither."""
    catalog, _ = filled(database)
    with behind_its_back(database, request) as connection:
        first = connection.execute(select(table).order_by(*table.primary_key.columns).limit(1)).mappings().one()
        connection.execute(delete(table).where(*(key == first[key.name] for key in table.primary_key.columns)))
    if table.name not in {"idempotency", "client_settings", "api_keys"}:
        assert catalog.problems() != ()


def test_rows_moved_to_another_client_give_no_wrong_answer(database: Database, request: pytest.FixtureRequest) -> None:
    catalog, _ = filled(database)
    catalog.publish(a_draft(OTHER, weights="third"), [LIVE])
    before = answers(catalog)
    with behind_its_back(database, request) as connection:
        ids = {row.name: row.id for row in connection.execute(text("SELECT name, id FROM clients"))}
        for table in ("aliases", "alias_moves", "versions"):
            connection.execute(text(f"UPDATE {table} SET client_id = 0 WHERE client_id = {ids[CLIENT]}"))
            connection.execute(text(f"UPDATE {table} SET client_id = {ids[CLIENT]} WHERE client_id = {ids[OTHER]}"))
    after = answers(catalog)
    assert after["served live"] is VersionCorrupt
    assert believed(before, after) == set()


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
        with closing(sqlite3.connect(folder / CATALOG_FILE)) as behind:
            behind.execute(statement)
            behind.commit()
        with open_embedded(folder) as store:
            with pytest.raises(VersionCorrupt, match="nothing was removed"):
                store.collect(grace_s=0.0)
            assert not store.check().whole
        assert [path.name for path in sorted((folder / "blobs" / CLIENT).iterdir())] == [path.name for path in stored]


def test_a_client_with_damaged_rows_can_be_deleted(database: Database, request: pytest.FixtureRequest) -> None:
    catalog, _ = filled(database)
    with behind_its_back(database, request) as connection:
        connection.execute(text("UPDATE clients SET latest = 7 WHERE name = 'line-1'"))
    with pytest.raises(VersionCorrupt):
        catalog.client(CLIENT)
    assert catalog.delete_client(CLIENT) == 2
    assert [client.name for client in catalog.clients()] == [OTHER]
    assert catalog.problems() == ()


def test_a_changed_bit_in_the_file_gives_no_wrong_answer_and_a_check_finds_it(tmp_path: Path) -> None:
    """Random bits of SQLite's file: in rows, in trees, in the file's header and in free pages."""
    path = tmp_path / CATALOG_FILE
    with closing(SqliteDatabase(path)) as database:
        upgrade(database)
        catalog, _ = filled(database)
        before = answers(catalog)
        whole = dump(database)
    content = path.read_bytes()
    chance = random.Random(7)
    tried = tmp_path / "tried"
    found = 0
    for number in range(FLIPS):
        place = chance.randrange(len(content) * 8)
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        folder = tried / str(number)
        folder.mkdir(parents=True)
        (folder / CATALOG_FILE).write_bytes(flipped)
        found += judged(folder / CATALOG_FILE, before, whole)
        shutil.rmtree(folder)
    assert found > FLIPS // 20


def dump(database: Database) -> list[Any]:
    with database.reading() as connection:
        return [connection.execute(select(table)).all() for table in METADATA.sorted_tables]


def judged(path: Path, before: dict[str, Any], whole: list[Any]) -> bool:
    """Open a catalog with a changed bit: hold its answers to those before. True if a check finds it."""
    try:
        with closing(SqliteDatabase(path, busy_timeout_s=0.1)) as database:
            upgrade(database)
            catalog = SqlCatalog(database)
            assert believed(before, answers(catalog)) == set()
            if catalog.problems():
                return True
            assert dump(database) == whole, "a changed row that the check did not find"
            return False
    except (StoreUnavailable, VersionCorrupt):  # it says so itself, when it is opened
        return True
