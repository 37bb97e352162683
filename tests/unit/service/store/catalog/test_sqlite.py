"""SQLite's journal, its locks and its errors, as the store shows them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from service.errors import StoreFull, StoreUnavailable
from service.store.catalog import sqlite as database_sqlite
from service.store.catalog.sqlite import SqliteDatabase, journal_mode
from service.store.catalog.tables import strict_json
from service.store.ports import ALL_CLIENTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite3"


@pytest.fixture
def database(path: Path) -> Iterator[SqliteDatabase]:
    opened = SqliteDatabase(path, busy_timeout_s=0.1)
    with opened.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("CREATE TABLE notes (text TEXT)")
    yield opened
    opened.close()


def write(database: SqliteDatabase, text: str) -> None:
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("INSERT INTO notes VALUES (?)", (text,))


def notes(database: SqliteDatabase) -> list[str]:
    with database.reading() as connection:
        return [row[0] for row in connection.exec_driver_sql("SELECT text FROM notes ORDER BY rowid")]


def pragma(connection: Connection, name: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


@pytest.mark.parametrize(
    ("version", "journal"),
    [
        ((3, 7, 0), "persist"),
        ((3, 40, 1), "persist"),
        ((3, 51, 2), "persist"),
        ((3, 51, 3), "wal"),
        ((3, 53, 0), "wal"),
        ((4, 0, 0), "wal"),
    ],
)
def test_wal_is_used_only_with_sqlite_versions_that_do_not_corrupt_it(version: tuple[int, ...], journal: str) -> None:
    assert journal_mode(version) == journal


def test_every_connection_is_durable_and_keeps_references(database: SqliteDatabase) -> None:
    expected = {
        "journal_mode": journal_mode(sqlite3.sqlite_version_info),
        "synchronous": 3,
        "foreign_keys": 1,
        "secure_delete": 1,
        "busy_timeout": 100,
    }
    for transaction in (database.reading(), database.writing(ALL_CLIENTS)):
        with transaction as connection:
            assert {name: pragma(connection, name) for name in expected} == expected


def test_a_wal_of_a_newer_sqlite_is_converted_to_a_rollback_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_sqlite, "FIRST_VERSION_SAFE_WITH_WAL", (99,))
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA journal_mode=WAL")
        newer.execute("CREATE TABLE notes (text TEXT)")
        newer.execute("INSERT INTO notes VALUES ('kept')")
        newer.commit()
        with closing_database(path) as database, pytest.raises(StoreUnavailable, match="stop them, then try again"):
            notes(database)
    with closing_database(path) as database:
        assert notes(database) == ["kept"]
        with database.reading() as connection:
            assert pragma(connection, "journal_mode") == "persist"


def closing_database(path: Path) -> closing[SqliteDatabase]:
    return closing(SqliteDatabase(path, busy_timeout_s=0.1))


def test_an_exception_rolls_the_transaction_back(database: SqliteDatabase) -> None:
    def write_and_stop() -> None:
        with database.writing(ALL_CLIENTS) as connection:
            connection.exec_driver_sql("INSERT INTO notes VALUES ('lost')")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        write_and_stop()
    assert notes(database) == []


def test_a_reader_sees_one_moment(database: SqliteDatabase, path: Path) -> None:
    write(database, "first")
    with database.reading() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM notes")
        assert count.scalar_one() == 1
        with closing(sqlite3.connect(path, timeout=0.0)) as other:
            other.execute("INSERT INTO notes VALUES ('second')")
            if journal_mode(sqlite3.sqlite_version_info) == "wal":
                other.commit()
        assert connection.exec_driver_sql("SELECT count(*) FROM notes").scalar_one() == 1


def test_a_catalog_that_another_process_holds_is_unavailable_after_the_wait(
    database: SqliteDatabase, path: Path
) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"locked by other writers for more than 0\.1 s"):
            write(database, "rejected")
        assert notes(database) == []
    write(database, "taken")
    assert notes(database) == ["taken"]


def test_a_writer_gives_up_when_another_thread_writes_for_too_long(database: SqliteDatabase) -> None:
    with ThreadPoolExecutor(1) as pool, database.writing(ALL_CLIENTS), pytest.raises(StoreUnavailable, match="locked"):
        pool.submit(write, database, "rejected").result()
    write(database, "taken")
    assert notes(database) == ["taken"]


def test_a_full_disk_raises_store_full_and_reads_continue(database: SqliteDatabase) -> None:
    def write_beyond_the_last_page() -> None:
        with database.writing(ALL_CLIENTS) as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            connection.exec_driver_sql("INSERT INTO notes VALUES (?)", ("x" * 100_000,))

    write(database, "first")
    with pytest.raises(StoreFull, match="no space left"):
        write_beyond_the_last_page()
    assert notes(database) == ["first"]


def test_a_file_that_is_not_a_database_is_rejected_with_a_remedy(path: Path) -> None:
    path.write_bytes(b"this is a text and not a database" * 100)
    with closing_database(path) as database, pytest.raises(StoreUnavailable, match="restore a backup"):
        notes(database)


def test_a_missing_folder_raises_store_unavailable(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "catalog.sqlite3"
    with closing_database(absent) as database, pytest.raises(StoreUnavailable, match="SQLITE_CANTOPEN"):
        notes(database)


def test_after_a_failed_sync_writes_fail_and_reads_continue(database: SqliteDatabase) -> None:
    write(database, "first")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    with pytest.raises(StoreUnavailable, match="SQLITE_IOERR_FSYNC"), database.writing(ALL_CLIENTS):
        raise error
    with pytest.raises(StoreUnavailable, match="restart the service"):
        write(database, "rejected")
    assert notes(database) == ["first"]


def test_values_that_are_not_valid_json_are_not_stored() -> None:
    with pytest.raises(ValueError, match="JSON"):
        strict_json({"loss": float("nan")})
    assert strict_json({"b": "ü", "a": 1}) == '{"b":"ü","a":1}'


def test_a_broken_reference_is_reported(database: SqliteDatabase, path: Path) -> None:
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE children (parent INTEGER REFERENCES parents (id))")
    assert database.problems() == ()
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO children VALUES (7)")
        other.commit()
    assert database.problems() == ("table children: row 1 refers to a missing row of parents",)
