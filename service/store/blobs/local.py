"""Blobs as files: ``<root>/<space>/<digest>``. Knows no rows, no weights format and nothing of what it stores.

A blob comes into being by a rename of a finished, synced file, so under its name there is the whole of it or nothing:
write to a temporary file in the same folder, fsync it, rename it, fsync the folder; fsync the root too, because the
space may be new. Within a space there is no fan-out: a client has thousands of blobs, not millions.

A failed fsync is final (``durability.py``): there are no more writes until the service is started anew. Reads go on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from models.atomic_files import TEMPORARY_PREFIX, SyncFailed, sync, write_temporary
from service.domain.names import validate_client_name
from service.errors import InvalidName, StoreFull, StoreUnavailable, VersionCorrupt
from service.store.durability import Durability
from service.store.ports import BlobEntry, Blobs

SYNCS_AT_ONCE: Final = 16

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LocalBlobs(Blobs):
    """Blobs under a folder, shared by any number of threads and processes of one machine.

    Args:
        root: the folder; it must be there.
        sync: False trades durability for speed: a power loss may lose blobs. For measurements only.
        durability: of the store that they belong to; their own unless given.
    """

    def __init__(self, root: Path, *, sync: bool = True, durability: Durability | None = None) -> None:
        self._root = root
        self._sync = sync
        self._durability = durability or Durability()

    def put(self, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        """See `Blobs.put`."""
        folder = self._folder(space)
        digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
        wanted = dict(zip(digests, contents, strict=True))
        with self._translated(f"storing in {space!r}"):
            self._durability.refuse_after_failure(str(self._root))
            folder.mkdir(mode=0o700, exist_ok=True)
            new = {digest: content for digest, content in wanted.items() if not _whole(folder / digest, digest)}
            with self._staged(folder, list(new.values())) as staged:
                for digest, unfinished in zip(new, staged, strict=True):
                    unfinished.replace(folder / digest)
            # Also where nothing was staged: another process may have renamed what is there and not synced it yet.
            self._sync_folder(folder)
            self._sync_folder(self._root)
        return digests

    def get(self, space: str, digest: str) -> bytes:
        """See `Blobs.get`."""
        path = self._path(space, digest)
        with self._translated(f"reading {digest} of {space!r}"):
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                raise VersionCorrupt(f"blob {digest} of {space!r} is missing; restore it from a backup") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise VersionCorrupt(
                f"blob {digest} of {space!r} is damaged: its {len(content)} bytes do not match its digest; "
                "restore it from a backup"
            )
        return content

    def missing(self, space: str, digests: Collection[str]) -> frozenset[str]:
        """See `Blobs.missing`."""
        return frozenset(digest for digest in digests if not self._path(space, digest).is_file())

    def delete(self, space: str, digests: Collection[str]) -> None:
        """See `Blobs.delete`."""
        folder = self._folder(space)
        paths = [self._path(space, digest) for digest in digests]
        with self._translated(f"deleting in {space!r}"):
            if not folder.is_dir():
                return
            for path in paths:
                path.unlink(missing_ok=True)
            self._sync_folder(folder)

    def sweep(self, space: str, *, older_than_s: float) -> int:
        """See `Blobs.sweep`."""
        folder = self._folder(space)
        removed = 0
        with self._translated(f"sweeping {space!r}"):
            if not folder.is_dir():
                return 0
            for path in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")):
                with suppress(FileNotFoundError):  # finished, or swept by another process, since the folder was listed
                    if _age_s(path) >= older_than_s:
                        path.unlink()
                        removed += 1
            with suppress(FileNotFoundError):  # removed by another process
                if _age_s(folder) >= older_than_s and not any(folder.iterdir()):
                    folder.rmdir()
                    self._sync_folder(self._root)
        return removed

    def spaces(self) -> Iterator[str]:
        """See `Blobs.spaces`."""
        with self._translated("listing"):
            names = sorted(path.name for path in self._root.iterdir() if path.is_dir())
        yield from (name for name in names if _is_space(name))

    def entries(self, space: str) -> Iterator[BlobEntry]:
        """See `Blobs.entries`."""
        folder = self._folder(space)
        with self._translated(f"listing {space!r}"):
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            found = [_entry(path) for path in paths if _DIGEST.fullmatch(path.name)]
        yield from (entry for entry in found if entry is not None)

    def ping(self) -> None:
        """See `Blobs.ping`."""
        self._durability.refuse_after_failure(str(self._root))
        if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise StoreUnavailable(f"the folder of the blobs {self._root} cannot be written; check it and its owner")

    def _folder(self, space: str) -> Path:
        return self._root / validate_client_name(space)

    def _path(self, space: str, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise VersionCorrupt(f"{digest[:80]!r} is not a SHA-256 in hexadecimal; the row that names it is damaged")
        return self._folder(space) / digest

    @contextmanager
    def _staged(self, folder: Path, contents: Sequence[bytes]) -> Iterator[list[Path]]:
        """Finished files of `contents` under temporary names; what is not renamed is removed on leaving."""
        with ExitStack() as undo:

            def stage(content: bytes) -> Path:
                path = write_temporary(folder, content, durable=self._sync)
                undo.callback(path.unlink, missing_ok=True)
                return path

            if len(contents) < 2:
                staged = [stage(content) for content in contents]
            else:  # syncs that wait at the same time share one commit of the file system's journal
                with ThreadPoolExecutor(min(len(contents), SYNCS_AT_ONCE), "anole-blobs") as pool:
                    staged = list(pool.map(stage, contents))
            yield staged

    def _sync_folder(self, folder: Path) -> None:
        if self._sync:
            sync(folder)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreUnavailable(f"{error.filename} was deleted meanwhile ({doing}); try again") from error
        except OSError as error:
            if isinstance(error, SyncFailed):
                self._durability.failed(str(error))
            if error.errno in _NO_SPACE:
                raise StoreFull(f"no space left under {self._root} ({doing}); free some; reading goes on") from error
            raise StoreUnavailable(f"the disk failed under {self._root} ({doing}): {error}") from error


def _whole(path: Path, digest: str) -> bool:
    """True if the blob is there and undamaged; its age then starts anew."""
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _entry(path: Path) -> BlobEntry | None:
    try:
        return BlobEntry(path.name, path.stat().st_size, _age_s(path))
    except FileNotFoundError:  # removed since the folder was listed
        return None


def _is_space(name: str) -> bool:
    try:
        return validate_client_name(name) == name
    except InvalidName:  # not ours, such as lost+found
        return False


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
