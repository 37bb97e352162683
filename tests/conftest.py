"""Settings for the whole suite, and the PostgreSQL and S3 servers that tests of the shared store need."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from sqlalchemy import make_url

from service.store.catalog.migrate import upgrade
from service.store.catalog.postgres import PostgresDatabase
from tests.real_parts import CREDENTIALS, ObjectServer, PostgresServer

# One torch thread per process: tests run in several processes, and more threads than cores slow each other down several
# times. This has to happen before torch is imported, and nothing imported above does so.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Log errors without the values of variables, which structlog's default takes seconds to format."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


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
