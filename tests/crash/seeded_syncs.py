"""Faults in what is synced and when, which no killed process shows and a power loss does; see ``seeded.py``."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from service.store import open_store
from service.store.blobs.local import LocalBlobs


def _replace(owner: Any, name: str, new: Any) -> None:
    setattr(owner, name, new)


def file_not_synced() -> None:
    fsync = LocalBlobs._fsync

    def folders_only(self: LocalBlobs, handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            fsync(self, handle)

    _replace(LocalBlobs, "_fsync", folders_only)


def folder_not_synced() -> None:
    sync = LocalBlobs._sync_folder
    _replace(LocalBlobs, "_sync_folder", lambda self, folder: folder == self._root and sync(self, folder))


def new_space_not_synced() -> None:
    sync = LocalBlobs._sync_folder
    _replace(LocalBlobs, "_sync_folder", lambda self, folder: folder != self._root and sync(self, folder))


def store_s_own_folder_not_synced() -> None:
    _replace(open_store, "_sync_folder", lambda _folder: None)


def renamed_before_synced() -> None:
    stage, sync = LocalBlobs._stage, LocalBlobs._sync_folder

    def unsynced(self: LocalBlobs, folder: Path, content: bytes) -> Path:
        self._sync = False
        try:
            return stage(self, folder, content)
        finally:
            self._sync = True

    def late(self: LocalBlobs, folder: Path) -> None:
        for path in folder.iterdir() if folder != self._root else ():
            with path.open("rb") as file:
                self._fsync(file.fileno())
        sync(self, folder)

    _replace(LocalBlobs, "_stage", unsynced)
    _replace(LocalBlobs, "_sync_folder", late)


def deduplicated_without_sync() -> None:
    put = LocalBlobs.put

    def trusting(self: LocalBlobs, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        digests: Collection[str] = [hashlib.sha256(content).hexdigest() for content in contents]
        return put(self, space, contents) if self.missing(space, digests) else tuple(digests)

    _replace(LocalBlobs, "put", trusting)
