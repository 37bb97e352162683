"""Empty stores for processes to be killed on, in a folder or in PostgreSQL and S3, and their blobs without the store.

The blobs are listed, read and replaced here without the code that is tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import obstore
import psycopg
from obstore.store import S3Store

from service.store.blobs.s3 import s3_store
from service.store.open_store import BLOBS_FOLDER, StoreLocation
from tests.real_parts import ObjectServer, PostgresServer

MEMORY_FOLDER: Final = Path("/dev/shm")
STORE: Final = "store"
"""Folder of a store, below the folder that `in_folder` makes."""

NewStore = Callable[[], AbstractContextManager[StoreLocation]]
"""Makes a place for a store, which is deleted on leaving."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create an empty folder, in memory if possible: that survives the kill of a process."""
    with tempfile.TemporaryDirectory(
        prefix="anole-crash-", dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    ) as folder:
        yield Path(folder)


@contextmanager
def in_folder() -> Iterator[StoreLocation]:
    """A store in a folder that does not exist yet."""
    with temporary_folder() as folder:
        yield StoreLocation(folder / STORE)


class Servers:
    """A PostgreSQL and an S3 server for stores. S3 requests take their credentials from the environment.

    Args:
        postgres: for the catalogs.
        objects: for the blobs.
        template: the database that catalogs are copies of; by default an empty one.
    """

    def __init__(self, postgres: PostgresServer, objects: ObjectServer, template: str = "template1") -> None:
        self.postgres = postgres
        self._objects = objects
        self._template = template

    @contextmanager
    def new_store(self) -> Iterator[StoreLocation]:
        """A store in a new database and an empty bucket."""
        database = self.postgres.new_database(self._template)
        with in_folder() as here:
            yield StoreLocation(here.folder, self.postgres.url(database), self._objects.url(self._objects.new_bucket()))
        self.postgres.drop(database)


def settle(location: StoreLocation) -> None:
    """Wait until PostgreSQL has ended what a killed process was doing: a commit may still be on its way."""
    if location.catalog_url is None:
        return
    with psycopg.connect(location.catalog_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def blob_names(location: StoreLocation) -> set[tuple[str, str]]:
    """Return the client and the name of everything that is stored as a blob, leftovers of writes included."""
    if location.blobs_url is None:
        found = (location.folder / BLOBS_FOLDER).glob("*/*")
        return {(path.parent.name, path.name) for path in found}
    names = (Path(meta["path"]) for chunk in obstore.list(_bucket(location.blobs_url)) for meta in chunk)
    return {(name.parent.name, name.name) for name in names}


def read_blob(location: StoreLocation, client: str, name: str) -> bytes:
    """Return the content of a blob."""
    if location.blobs_url is None:
        return (location.folder / BLOBS_FOLDER / client / name).read_bytes()
    return bytes(obstore.get(_bucket(location.blobs_url), f"{client}/{name}").bytes())


def write_blob(location: StoreLocation, client: str, name: str, content: bytes) -> None:
    """Create or replace a blob."""
    if location.blobs_url is None:
        (location.folder / BLOBS_FOLDER / client / name).write_bytes(content)
    else:
        obstore.put(_bucket(location.blobs_url), f"{client}/{name}", content)


def _bucket(blobs_url: str) -> S3Store:
    url = urlsplit(blobs_url)
    options = parse_qs(url.query)
    return s3_store(url.netloc, url.path.strip("/"), endpoint=options["endpoint"][0], region=options["region"][0])
