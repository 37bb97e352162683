"""Opens a store from the URLs of its catalog and its blobs, or in a folder.

In a folder, the catalog is a SQLite file and the blobs are files. Several machines can share a catalog in PostgreSQL
and blobs in an S3-compatible store. Each choice is independent of the other.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from models.atomic_files import create_folder
from service.errors import InvalidSettings, StoreUnavailable
from service.settings import Settings
from service.store.blobs.local import LocalBlobs
from service.store.catalog.catalog import Catalog
from service.store.catalog.keys import SqlKeys
from service.store.catalog.migrate import is_current, is_new, upgrade
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sqlite import SqliteDatabase
from service.store.ports import Blobs, Database, SyncFailures
from service.store.version_store import VersionStore

CATALOG_FILE: Final = "catalog.sqlite3"
BLOBS_FOLDER: Final = "blobs"

_CATALOG_ALLOWED: Final = "postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:////FOLDER/FILE"
_BLOBS_ALLOWED: Final = "s3://BUCKET/PREFIX?endpoint=URL&region=NAME or file:///FOLDER"
_BLOBS_OPTIONS: Final = frozenset({"endpoint", "region"})

Missing = Literal["create", "reject", "restore"]
"""What to do where there is no catalog: "create" makes one, unless there are blobs, because then a catalog was lost;
"reject" makes none; "restore" makes one in any case."""


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """Where a store is kept.

    Attributes:
        folder: on a local disk, for what has no URL. SQLite's locks do not work on network file systems.
        catalog_url: ``postgresql://…`` or ``sqlite:///…``; None: a file in the folder.
        blobs_url: ``s3://…`` or ``file:///…``; None: in the folder.
    """

    folder: Path
    catalog_url: str | None = None
    blobs_url: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> StoreLocation:
        """Return the location that the settings name: the URLs that are given, else the data folder."""
        url = settings.catalog_url
        return cls(settings.data, None if url is None else url.get_secret_value(), settings.blobs_url)

    @property
    def shared(self) -> bool:
        """Whether several machines can use the store: its catalog is in PostgreSQL and its blobs are not on a disk."""
        on_server = self.catalog_url is not None and urlsplit(self.catalog_url).scheme.startswith("postgres")
        return on_server and self.local_blobs is None

    @property
    def local_blobs(self) -> Path | None:
        """The folder of the blobs; None if they are not on a local disk, or if the URL is not valid."""
        url = urlsplit(self.blobs_url or "")
        if self.blobs_url is None:
            return self.folder / BLOBS_FOLDER
        return Path(url.path) if url.scheme == "file" and url.path and not url.netloc and not url.query else None


def open_embedded(folder: Path, *, sync: bool = True) -> VersionStore:
    """Open the store in `folder`; see `open_store`."""
    return open_store(StoreLocation(folder), sync=sync)


def open_store(
    location: StoreLocation,
    *,
    missing: Missing = "create",
    sync: bool = True,
    on_sync_failure: Callable[[str], None] = lambda _reason: None,
) -> VersionStore:
    """Open a store, and upgrade its tables if needed. Several processes may have it open.

    A store on a read-only disk opens too; writes raise StoreUnavailable until the disk is writable.

    Args:
        location: where it is.
        missing: what to do if there is no catalog.
        sync: False trades durability for speed; for measurements and throw-away stores only.
        on_sync_failure: called when a write could not be made durable; the store then accepts no more writes.

    Raises:
        InvalidSettings: a URL is not supported, or its driver is not installed.
        StoreUnavailable: there is no store, its catalog was lost or is damaged, or it cannot be reached.
        StoreIncompatible: a newer release wrote the catalog, or it is not a catalog of this project.
    """
    failures = SyncFailures(on_sync_failure)
    database = _open_database(location, failures, missing, sync=sync)
    try:
        return VersionStore(Catalog(database), _open_blobs(location, failures, sync=sync))
    except BaseException:
        database.close()
        raise


def open_keys(location: StoreLocation, *, missing: Missing = "create") -> SqlKeys:
    """Open the API keys, which are in the catalog's database. Raises as `open_store` does."""
    return SqlKeys(_open_database(location, SyncFailures(), missing, sync=True))


def needs_upgrade(location: StoreLocation) -> bool:
    """Whether opening the store would change its tables. Nothing is created or changed.

    Raises:
        InvalidSettings, StoreUnavailable: as `open_store`.
    """
    database = _connect(location, SyncFailures(), "reject", sync=True)
    try:
        if is_new(database):
            raise _no_store(location)
        return not is_current(database)
    finally:
        database.close()


def _open_database(location: StoreLocation, failures: SyncFailures, missing: Missing, *, sync: bool) -> Database:
    database = _connect(location, failures, missing, sync=sync)
    try:
        if is_new(database):
            if missing == "reject":
                raise _no_store(location)
            blobs = _open_blobs(location, failures, sync=sync)
            if missing == "create":
                _reject_lost_catalog(database, blobs, location)
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return database


def _reject_lost_catalog(database: Database, blobs: Blobs, location: StoreLocation) -> None:
    """Raises StoreUnavailable if there are blobs but no catalog."""
    client = next((space for space in blobs.spaces() if next(blobs.entries(space), None) is not None), None)
    if client is not None and is_new(database):  # still new: no other process has just created it and published
        raise StoreUnavailable(
            f"the catalog of the store in {_shown(location)} is missing or empty, but samples and weights are stored, "
            f"such as those of client {client!r}; put the catalog back, or restore a backup with `anole store restore "
            "PATH`; to start with an empty store, name another folder"
        )


def _no_store(location: StoreLocation) -> StoreUnavailable:
    return StoreUnavailable(
        f"there is no store in {_shown(location)}: its catalog is missing or empty; name the folder of the store with "
        "--data, or check that its disk is mounted"
    )


def _shown(location: StoreLocation) -> str:
    """The location for messages, without a password."""
    return str(location.folder.absolute()) if location.catalog_url is None else "the catalog that the settings name"


def _connect(location: StoreLocation, failures: SyncFailures, missing: Missing, *, sync: bool) -> Database:
    path = location.folder / CATALOG_FILE
    if location.catalog_url is not None:
        try:
            url = make_url(location.catalog_url)
        except (ArgumentError, ValueError) as error:  # the URL may hold a password, so it is not shown
            raise InvalidSettings(f"the URL of the catalog is not valid; allowed is {_CATALOG_ALLOWED}") from error
        if url.get_backend_name() in ("postgresql", "postgres"):
            return PostgresDatabase(url, sync=sync)
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            shown = url.render_as_string(hide_password=True)
            raise InvalidSettings(f"the URL of the catalog is {shown!r}; allowed is {_CATALOG_ALLOWED}")
        path = Path(url.database)
    if not (path.is_file() and path.stat().st_size):
        if missing == "reject":
            raise _no_store(location)
        _make_writable(path.parent, sync=sync)
    return SqliteDatabase(path, sync=sync, sync_failures=failures, reserve=True)


def _open_blobs(location: StoreLocation, failures: SyncFailures, *, sync: bool) -> Blobs:
    url = urlsplit(location.blobs_url or "")
    options = parse_qs(url.query)
    folder = location.local_blobs
    if folder is not None:
        if not folder.is_dir():
            _make_writable(folder, sync=sync)
        return LocalBlobs(folder, sync=sync, sync_failures=failures)
    if url.scheme != "s3" or not url.hostname or url.username or options.keys() - _BLOBS_OPTIONS:
        raise InvalidSettings(
            f"the URL of the blobs is {url.scheme}://{url.hostname or ''}{url.path} with "
            f"{', '.join(sorted(options)) or 'no'} options; allowed is {_BLOBS_ALLOWED}, without credentials: set "
            "AWS's environment variables instead"
        )
    try:
        from service.store.blobs.s3 import ObjectBlobs, s3_store
    except ImportError as error:
        raise InvalidSettings(
            f"blobs at s3:// need obstore ({error}): pip install -c constraints.txt -e '.[shared]' in a checkout of "
            "Anole"
        ) from error
    last = {name: values[-1] for name, values in options.items()}
    bucket = s3_store(url.netloc, url.path.strip("/"), endpoint=last.get("endpoint"), region=last.get("region"))
    return ObjectBlobs(bucket, f"s3://{url.netloc}{url.path}")


def _make_writable(folder: Path, *, sync: bool) -> None:
    """Create the folder if it is missing.

    Raises:
        StoreUnavailable: it cannot be created or written.
    """
    try:
        create_folder(folder, durable=sync)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise StoreUnavailable(
            f"the store cannot be kept in {folder.absolute()}: {error}; it must be a folder on a local disk that the "
            f"user {os.geteuid()} of this process may write to; name another one, or change its owner"
        ) from error
