"""Opens a store: which adapters, from one URL each, or in a folder where none is given. Reads no settings.

Without URLs a store needs nothing but a folder: SQLite for the catalog, files for the blobs. Shared by several machines
it has PostgreSQL for the catalog and an S3-compatible store for the blobs; either can also be combined with the other.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from models.atomic_files import sync as sync_to_disk
from service.errors import InvalidSettings, StoreUnavailable
from service.store.blobs.local import LocalBlobs
from service.store.catalog.database import Database
from service.store.catalog.keys import SqlKeys
from service.store.catalog.migrate import upgrade
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sql import SqlCatalog
from service.store.catalog.sqlite import SqliteDatabase
from service.store.durability import Durability, Told, nobody
from service.store.ports import Blobs
from service.store.version_store import VersionStore

CATALOG_FILE: Final = "catalog.sqlite3"
BLOBS_FOLDER: Final = "blobs"

_CATALOG_ALLOWED: Final = "postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:////FOLDER/FILE"
_BLOBS_ALLOWED: Final = "s3://BUCKET/PREFIX?endpoint=URL&region=NAME or file:///FOLDER"
_BLOBS_OPTIONS: Final = frozenset({"endpoint", "region"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is kept.

    Attributes:
        folder: on a local disk, for what has no URL; network file systems do not keep SQLite's locks.
        catalog_url: ``postgresql://…`` or ``sqlite:///…``; None: a file in the folder.
        blobs_url: ``s3://…`` or ``file:///…``; None: in the folder.
    """

    folder: Path
    catalog_url: str | None = None
    blobs_url: str | None = None


def open_embedded(folder: Path, *, sync: bool = True) -> VersionStore:
    """Open the store in `folder`; see `open_store`."""
    return open_store(Place(folder), sync=sync)


def open_store(place: Place, *, sync: bool = True, told: Told = nobody) -> VersionStore:
    """Open a store, made and brought to this release's tables where needed; several may have it open.

    Args:
        place: where it is.
        sync: False trades durability for speed; for measurements and throw-away stores only.
        told: is told when a write could not be made durable; the store takes no more writes then.

    Raises:
        InvalidSettings: a URL that names nothing known here, or whose driver is not installed.
        StoreUnavailable: it cannot be reached or written, or the catalog is damaged.
        StoreIncompatible: a newer release wrote the catalog, or it is not one of this project.
    """
    durability = Durability(told)
    blobs = _blobs(place, durability, sync=sync)
    return VersionStore(SqlCatalog(_opened(place, durability, sync=sync)), blobs)


def open_keys(place: Place) -> SqlKeys:
    """Open the keys that lie beside the catalog; makes and raises what `open_store` does."""
    return SqlKeys(_opened(place, Durability(), sync=True))


def _opened(place: Place, durability: Durability, *, sync: bool) -> Database:
    database = _database(place, durability, sync=sync)
    try:
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return database


def _database(place: Place, durability: Durability, *, sync: bool) -> Database:
    if place.catalog_url is None:
        _make_writable(place.folder, sync=sync)
        return SqliteDatabase(place.folder / CATALOG_FILE, sync=sync, durability=durability)
    try:
        url = make_url(place.catalog_url)
    except (ArgumentError, ValueError) as error:  # the URL itself may hold a password: it is not repeated
        raise InvalidSettings(f"the URL of the catalog cannot be understood; allowed is {_CATALOG_ALLOWED}") from error
    match url.get_backend_name():
        case "postgresql" | "postgres":
            return PostgresDatabase(url, sync=sync)
        case "sqlite" if url.database and url.database != ":memory:":
            path = Path(url.database)
            _make_writable(path.parent, sync=sync)
            return SqliteDatabase(path, sync=sync, durability=durability)
    shown = url.render_as_string(hide_password=True)
    raise InvalidSettings(f"the URL of the catalog is {shown!r}; allowed is {_CATALOG_ALLOWED}")


def _blobs(place: Place, durability: Durability, *, sync: bool) -> Blobs:
    url = urlsplit(place.blobs_url or "")
    options = parse_qs(url.query)
    if place.blobs_url is None or (url.scheme == "file" and url.path and not url.netloc and not options):
        folder = Path(url.path) if place.blobs_url else place.folder / BLOBS_FOLDER
        _make_writable(folder, sync=sync)
        return LocalBlobs(folder, sync=sync, durability=durability)
    if url.scheme != "s3" or not url.hostname or url.username or options.keys() - _BLOBS_OPTIONS:
        raise InvalidSettings(
            f"the URL of the blobs is {url.scheme}://{url.hostname or ''}{url.path} with "
            f"{', '.join(sorted(options)) or 'no'} options; allowed is {_BLOBS_ALLOWED}, without credentials: those "
            "come from AWS's own environment variables"
        )
    try:
        from service.store.blobs.s3 import ObjectBlobs, s3_store
    except ImportError as error:
        raise InvalidSettings(f"blobs at s3:// need obstore ({error}); install anole[shared]") from error
    last = {name: values[-1] for name, values in options.items()}
    bucket = s3_store(url.netloc, url.path.strip("/"), endpoint=last.get("endpoint"), region=last.get("region"))
    return ObjectBlobs(bucket, f"s3://{url.netloc}{url.path}")


def _make_writable(folder: Path, *, sync: bool) -> None:
    """Make the folder where it is not there.

    Raises:
        StoreUnavailable: it cannot be made or written.
    """
    try:
        _make(folder, sync=sync)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise StoreUnavailable(
            f"the store cannot be kept in {folder.absolute()}: {error}; it must be a folder on a local disk that the "
            f"user {os.geteuid()} of this process may write to; name another one, or change its owner"
        ) from error


def _make(folder: Path, *, sync: bool) -> None:
    """Make the folder and those above it, for this user alone, each durable in the one that names it."""
    new = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    for path in reversed(new):
        path.mkdir(mode=0o700, exist_ok=True)
        if sync:
            sync_to_disk(path.parent)
