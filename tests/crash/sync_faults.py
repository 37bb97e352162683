"""Faults in what is synced and when. Power losses show them, kills of a process do not; see ``faults.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from models.atomic_files import create_folder, sync, write_temporary
from service.store import backup, open_store
from service.store.blobs import local as blobs_local
from service.store.blobs.local import LocalBlobs
from service.store.catalog.postgres import PostgresDatabase
from service.store.catalog.sqlite import SqliteDatabase


def _replace(owner: Any, name: str, new: Any) -> None:
    setattr(owner, name, new)


def file_not_synced() -> None:
    _replace(
        blobs_local, "write_temporary", lambda folder, content, **_: write_temporary(folder, content, durable=False)
    )


def folder_not_synced() -> None:
    sync = LocalBlobs._sync_folder
    _replace(LocalBlobs, "_sync_folder", lambda self, folder: folder == self._root and sync(self, folder))


def new_space_not_synced() -> None:
    sync = LocalBlobs._sync_folder
    _replace(LocalBlobs, "_sync_folder", lambda self, folder: folder != self._root and sync(self, folder))


def store_folder_not_synced() -> None:
    _replace(open_store, "create_folder", lambda folder, **_: create_folder(folder, durable=False))


def renamed_before_synced() -> None:
    sync_folder = LocalBlobs._sync_folder

    def sync_late(self: LocalBlobs, folder: Path) -> None:
        for path in folder.iterdir() if folder != self._root else ():
            sync(path)
        sync_folder(self, folder)

    file_not_synced()
    _replace(LocalBlobs, "_sync_folder", sync_late)


def existing_blobs_not_synced() -> None:
    put = LocalBlobs.put

    def skip_existing(self: LocalBlobs, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        digests: Collection[str] = [hashlib.sha256(content).hexdigest() for content in contents]
        return put(self, space, contents) if self.missing(space, digests) else tuple(digests)

    _replace(LocalBlobs, "put", skip_existing)


def commit_not_synced() -> None:
    prepare = SqliteDatabase._prepare

    def without_sync(self: SqliteDatabase, connection: Any, record: Any) -> None:
        prepare(self, connection, record)
        connection.execute("PRAGMA synchronous=OFF")

    _replace(SqliteDatabase, "_prepare", without_sync)


def backup_folder_not_synced() -> None:
    _replace(backup, "create_folder", lambda folder: create_folder(folder, durable=False))


def commit_not_on_the_server() -> None:
    prepare = PostgresDatabase._prepare

    def asynchronous(self: PostgresDatabase, connection: Any, record: Any) -> None:
        self._sync = False
        prepare(self, connection, record)

    _replace(PostgresDatabase, "_prepare", asynchronous)
