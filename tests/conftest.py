"""The servers that the shared form of the store needs, started once a session and only where a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from sqlalchemy import make_url

from service.store.catalog.migrate import upgrade
from service.store.catalog.postgres import PostgresDatabase
from tests.real_parts import CREDENTIALS, ObjectServer, PostgresServer


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Log errors without the values of variables, which structlog's default takes seconds to format."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def catalog_template(postgres: PostgresServer) -> str:
    """The name of a database with this release's tables, to make others from."""
    name = postgres.new_database()
    database = PostgresDatabase(make_url(postgres.url(name)))
    upgrade(database)
    database.close()
    return name


@pytest.fixture
def catalog_url(postgres: PostgresServer, catalog_template: str) -> Iterator[str]:
    """The URL of an empty catalog on PostgreSQL."""
    name = postgres.new_database(catalog_template)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(scope="session", autouse=True)
def credentials() -> Iterator[None]:
    """Credentials for the server of objects, from the start: what processes fork from starts early."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def objects() -> Iterator[ObjectServer]:
    """A server of objects."""
    server = ObjectServer()
    yield server
    server.remove()
