"""Faults in what is synced and when. Power losses show them, kills do not; see ``faults.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from models.atomic_files import sync, write_temporary
from service.store import open_store
from service.store.blobs import local as blobs_local
from service.store.blobs.local import LocalBlobs


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
    _replace(open_store, "sync_to_disk", lambda _folder: None)


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
