"""PostgreSQL's locks and its errors, as the store shows them; how it comes back when its server does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import make_url, text

from service.errors import StoreFull, StoreUnavailable
from service.store.catalog.postgres import PostgresDatabase
from service.store.ports import ALL_CLIENTS
from tests.real_parts import PostgresServer

SCOPE = "line-1"


def opened(url: str) -> PostgresDatabase:
    return PostgresDatabase(make_url(url), busy_timeout_s=0.3)


@pytest.fixture
def database(catalog_url: str) -> Iterator[PostgresDatabase]:
    found = opened(catalog_url)
    with found.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("CREATE TABLE notes (text TEXT)")
    yield found
    found.close()


@pytest.fixture
def elsewhere(catalog_url: str) -> Iterator[PostgresDatabase]:
    """The same database, as another process has it."""
    found = opened(catalog_url)
    yield found
    found.close()


def write(database: PostgresDatabase, note: str, scope: str = SCOPE) -> None:
    with database.writing(scope) as connection:
        connection.execute(text("INSERT INTO notes VALUES (:note)"), {"note": note})


def notes(database: PostgresDatabase) -> list[str]:
    with database.reading() as connection:
        return sorted(row[0] for row in connection.exec_driver_sql("SELECT text FROM notes"))


def test_an_exception_rolls_the_transaction_back(database: PostgresDatabase) -> None:
    def write_and_stop() -> None:
        with database.writing(SCOPE) as connection:
            connection.exec_driver_sql("INSERT INTO notes VALUES ('lost')")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        write_and_stop()
    assert notes(database) == []


def test_a_reader_sees_one_moment_and_waits_for_no_writer(
    database: PostgresDatabase, elsewhere: PostgresDatabase
) -> None:
    write(database, "first")
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM notes").scalar_one() == 1
        write(elsewhere, "second")
        assert connection.exec_driver_sql("SELECT count(*) FROM notes").scalar_one() == 1
    assert notes(database) == ["first", "second"]


def test_writers_of_one_client_wait_for_each_other_and_see_what_the_other_wrote(
    database: PostgresDatabase, elsewhere: PostgresDatabase
) -> None:
    began = threading.Event()

    def count_then_write() -> int:
        began.set()
        with elsewhere.writing(SCOPE) as connection:
            found = connection.exec_driver_sql("SELECT count(*) FROM notes").scalar_one()
            connection.exec_driver_sql("INSERT INTO notes VALUES ('second')")
            return int(found)

    with ThreadPoolExecutor(1) as pool:
        with database.writing(SCOPE) as connection:
            racing = pool.submit(count_then_write)
            began.wait()
            connection.exec_driver_sql("INSERT INTO notes VALUES ('first')")
        assert racing.result() == 1


def test_writers_of_different_clients_run_side_by_side(database: PostgresDatabase, elsewhere: PostgresDatabase) -> None:
    with database.writing("line-1"):
        write(elsewhere, "passed", "line-2")
        write(database, "passed here too", "line-3")
    assert notes(database) == ["passed", "passed here too"]


@pytest.mark.parametrize(
    ("held", "wanted"), [(SCOPE, SCOPE), (ALL_CLIENTS, SCOPE), (SCOPE, ALL_CLIENTS), (ALL_CLIENTS, ALL_CLIENTS)]
)
def test_a_writer_gives_up_when_another_writes_for_too_long(
    database: PostgresDatabase, elsewhere: PostgresDatabase, held: str, wanted: str
) -> None:
    with database.writing(held), pytest.raises(StoreUnavailable, match=r"locked by other writers for more than 0\.3 s"):
        write(elsewhere, "rejected", wanted)
    write(elsewhere, "taken", wanted)
    assert notes(database) == ["taken"]


def test_waiting_threads_of_one_process_do_not_use_up_the_connections(database: PostgresDatabase) -> None:
    """More writers of one client than there are connections; what the first needs while it holds the lock is there."""
    waiting = 40
    together = threading.Barrier(waiting + 1)

    def turned_away(_: int) -> bool:
        together.wait()
        try:
            write(database, "late")
        except StoreUnavailable:
            return True
        return False

    with ThreadPoolExecutor(waiting) as pool, database.writing(SCOPE):
        racing = [pool.submit(turned_away, i) for i in range(waiting)]
        together.wait()
        assert notes(database) == []
        assert all(each.result() for each in racing)
    write(database, "taken")


def test_a_restarted_server_fails_no_request(catalog_url: str, postgres: PostgresServer) -> None:
    database = opened(catalog_url)
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("CREATE TABLE notes (text TEXT)")
    write(database, "before")
    postgres.stop()
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        notes(database)
    with pytest.raises(StoreUnavailable, match="nothing was recorded"):
        write(database, "rejected")
    postgres.start()
    assert notes(database) == ["before"]
    write(database, "after")
    database.close()


def test_a_server_that_stops_during_a_write_leaves_nothing_of_it(catalog_url: str, postgres: PostgresServer) -> None:
    database = opened(catalog_url)
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql("CREATE TABLE notes (text TEXT)")

    def write_while_it_ends() -> None:
        with database.writing(SCOPE) as connection:
            connection.exec_driver_sql("INSERT INTO notes VALUES ('lost')")
            postgres.stop()

    try:
        with pytest.raises(StoreUnavailable):
            write_while_it_ends()
    finally:
        postgres.start()
    assert notes(database) == []
    database.close()


def test_a_full_disk_raises_store_full(database: PostgresDatabase) -> None:
    raise_full = "DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
    with pytest.raises(StoreFull, match="no space left"), database.writing(SCOPE) as connection:
        connection.exec_driver_sql(raise_full)
    with pytest.raises(StoreUnavailable, match="read-only transaction"), database.reading() as connection:
        connection.exec_driver_sql("INSERT INTO notes VALUES ('rejected')")


def test_a_commit_waits_for_the_servers_disk_whatever_the_servers_default(
    catalog_url: str, postgres: PostgresServer
) -> None:
    name = make_url(catalog_url).database
    database = opened(catalog_url)
    with database.writing(ALL_CLIENTS) as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    database.close()
    for sync, expected in ((True, "on"), (False, "off")):
        database = PostgresDatabase(make_url(catalog_url), sync=sync)
        with database.writing(SCOPE) as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == expected
        database.close()
