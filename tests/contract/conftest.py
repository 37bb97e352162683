"""The implementations of `Catalog` that the contract tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from service.store.catalog import sqlite as database_sqlite
from service.store.catalog.catalog import Catalog
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sqlite import SqliteDatabase
from service.store.ports import Database

ADAPTERS = ("sqlite with the rollback journal", "sqlite with the write-ahead log", "postgresql")


@pytest.fixture(params=ADAPTERS)
def database(request: pytest.FixtureRequest, catalog_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database with this release's tables."""
    opened: Database
    if request.param == "postgresql":
        opened = PostgresDatabase(make_url(request.getfixturevalue("empty_catalog")))
    else:
        # Both journals are tried whatever SQLite this is: the bug that forbids WAL takes a checkpoint of one connection
        # that overlaps another's reset, which these small catalogs never reach.
        first_safe = (99,) if "rollback" in request.param else (3,)
        monkeypatch.setattr(database_sqlite, "FIRST_VERSION_SAFE_WITH_WAL", first_safe)
        opened = SqliteDatabase(catalog_file)
    yield opened
    opened.close()


@pytest.fixture
def catalog(database: Database) -> Catalog:
    """An empty catalog."""
    return Catalog(database)
