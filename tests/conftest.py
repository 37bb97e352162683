"""Settings for the whole suite, and the PostgreSQL and S3 servers that tests of the shared store need."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import typer.main
from sqlalchemy import make_url

from service.store.catalog.migrate import upgrade
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sqlite import SqliteDatabase
from tests.compiled_statements import share_compiled_statements
from tests.real_parts import CREDENTIALS, ObjectServer, PostgresServer

# One torch thread per process: tests run in several processes, and more threads than cores slow each other down several
# times. This has to happen before torch is imported, and nothing imported above does so.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 4 * 2**30


def keep_temporary_files_in_memory() -> None:
    """Let this process and those that it starts keep temporary files in memory, unless TMPDIR says where.

    The tests wait for the disk about as long as they compute, because the store syncs what it acknowledges. Syncs are
    still made: the tests of kills need what a process has written, and those of power loss simulate the disk.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    disk = os.statvfs(MEMORY)
    if disk.f_bavail * disk.f_frsize >= NEEDED_BYTES and not disk.f_flag & os.ST_NOEXEC:  # PostgreSQL runs from there
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # chosen before, for pytest's own output


keep_temporary_files_in_memory()


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Log errors without the values of variables, which structlog's default takes seconds to format."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


@pytest.fixture(scope="session", autouse=True)
def compiled_statements() -> Iterator[None]:
    """Compile each statement once. The tests open hundreds of stores."""
    with pytest.MonkeyPatch.context() as patch:
        share_compiled_statements(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def command_line() -> Iterator[None]:
    """Build the commands once. At every call, typer evaluates the annotations of all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a SQLite file with the current tables, to copy from, and return its path."""
    path = tmp_path_factory.mktemp("template") / "catalog.sqlite3"
    database = SqliteDatabase(path)
    upgrade(database)
    database.close()
    return path


@pytest.fixture
def catalog_file(sqlite_template: Path, tmp_path: Path) -> Path:
    """Return the path of an empty catalog in SQLite."""
    return shutil.copyfile(sqlite_template, tmp_path / sqlite_template.name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def catalog_template(postgres: PostgresServer) -> str:
    """Create a database with the current tables, to copy from, and return its name."""
    name = postgres.new_database()
    database = PostgresDatabase(make_url(postgres.url(name)))
    upgrade(database)
    database.close()
    return name


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer, catalog_template: str) -> str:
    """Create a database for `empty_catalog` and return its name."""
    return postgres.new_database(catalog_template)


@pytest.fixture
def empty_catalog(postgres: PostgresServer, shared_database: str) -> Iterator[str]:
    """Return the URL of an empty catalog on PostgreSQL, for tests that change neither its tables nor its settings."""
    yield postgres.url(shared_database)
    postgres.empty(shared_database)


@pytest.fixture
def catalog_url(postgres: PostgresServer, catalog_template: str) -> Iterator[str]:
    """Return the URL of an empty catalog on PostgreSQL."""
    name = postgres.new_database(catalog_template)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(scope="session", autouse=True)
def credentials() -> Iterator[None]:
    """Set credentials for the S3 server before any test starts a process."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def objects() -> Iterator[ObjectServer]:
    """Start an S3 server."""
    server = ObjectServer()
    yield server
    server.remove()
