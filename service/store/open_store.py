"""Opens the store that needs nothing but a folder: SQLite for the catalog, files for the blobs. Reads no settings."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from service.errors import StoreUnavailable
from service.store.blobs_local import LocalBlobs
from service.store.catalog_sql import SqlCatalog
from service.store.database_sqlite import SqliteDatabase
from service.store.keys_sql import SqlKeys
from service.store.migrate import upgrade
from service.store.weight_store import WeightStore

CATALOG_FILE: Final = "catalog.sqlite3"
BLOBS_FOLDER: Final = "blobs"


def open_embedded(folder: Path, *, sync: bool = True) -> WeightStore:
    """Open the store in `folder`, made and brought to this release's tables where needed; several may have it open.

    Args:
        folder: a folder on a local disk; network file systems do not keep SQLite's locks.
        sync: False trades durability for speed; for measurements and throw-away stores only.

    Raises:
        StoreUnavailable: the folder cannot be made or written, or the catalog is damaged.
        StoreIncompatible: a newer release wrote the catalog, or it is not one of this project.
    """
    _make_writable(folder, sync=sync)
    return WeightStore(SqlCatalog(_opened(folder, sync=sync)), LocalBlobs(folder / BLOBS_FOLDER, sync=sync))


def open_keys(folder: Path) -> SqlKeys:
    """Open the keys of the store in `folder`; makes and raises what `open_embedded` does."""
    _make_writable(folder, sync=True)
    return SqlKeys(_opened(folder, sync=True))


def _make_writable(folder: Path, *, sync: bool) -> None:
    blobs = folder / BLOBS_FOLDER
    try:
        _make(blobs, sync=sync)
        for writable in (folder, blobs):
            with tempfile.TemporaryFile(dir=writable):
                continue
    except OSError as error:
        raise StoreUnavailable(
            f"the store cannot be kept in {folder.absolute()}: {error}; it must be a folder on a local disk that the "
            f"user {os.geteuid()} of this process may write to; name another one, or change its owner"
        ) from error


def _opened(folder: Path, *, sync: bool) -> SqliteDatabase:
    database = SqliteDatabase(folder / CATALOG_FILE, sync=sync)
    try:
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return database


def _make(folder: Path, *, sync: bool) -> None:
    """Make the folder and those above it, for this user alone, each durable in the one that names it."""
    new = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    for path in reversed(new):
        path.mkdir(mode=0o700, exist_ok=True)
        if sync:
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
