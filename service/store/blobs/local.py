"""Blobs as files: ``<root>/<space>/<digest>``.

Each blob is written to a temporary file in the same folder, synced and renamed, so a file with a blob's name is always
complete. Then the folder is synced, and the root too, because the space may be new. A space has no subfolders: a client
has thousands of blobs, not millions. After a failed sync there are no more writes; see `SyncFailures`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from models.atomic_files import TEMPORARY_PREFIX, SyncFailed, sync, write_temporary
from service.domain.client import validate_client_name
from service.errors import StoreFull, StoreUnavailable
from service.store.ports import (
    BlobEntry,
    Blobs,
    SyncFailures,
    is_digest,
    is_space,
    missing_blob,
    run_parallel,
    sha256,
    validate_digest,
    verify_content,
)

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LocalBlobs(Blobs):
    """Blobs in a folder, shared by any number of threads and processes of one machine.

    Args:
        root: the folder; it must exist.
        sync: False trades durability for speed: a power loss may lose blobs. For measurements only.
        sync_failures: shared with the store's other parts; by default a new one.
    """

    def __init__(self, root: Path, *, sync: bool = True, sync_failures: SyncFailures | None = None) -> None:
        self._root = root
        self._sync = sync
        self._sync_failures = sync_failures or SyncFailures()

    def put(self, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        folder = self._folder(space)
        digests = tuple(map(sha256, contents))
        wanted = dict(zip(digests, contents, strict=True))
        with self._translated(f"storing in {space!r}"):
            self._sync_failures.check(str(self._root))
            folder.mkdir(mode=0o700, exist_ok=True)
            new = {digest: content for digest, content in wanted.items() if not _is_intact(folder / digest, digest)}
            with self._staged(folder, list(new.values())) as staged:
                for digest, temporary in zip(new, staged, strict=True):
                    temporary.replace(folder / digest)
            # Even if nothing was staged: another process may have renamed an existing blob without syncing it yet.
            self._sync_folder(folder)
            self._sync_folder(self._root)
        return digests

    def get(self, space: str, digest: str) -> bytes:
        path = self._path(space, digest)
        with self._translated(f"reading {digest} of {space!r}"):
            try:
                return verify_content(path.read_bytes(), space, digest)
            except FileNotFoundError as error:
                raise missing_blob(space, digest) from error

    def missing(self, space: str, digests: Collection[str]) -> frozenset[str]:
        return frozenset(digest for digest in digests if not self._path(space, digest).is_file())

    def delete(self, space: str, digests: Collection[str]) -> None:
        folder = self._folder(space)
        paths = [self._path(space, digest) for digest in digests]
        with self._translated(f"deleting in {space!r}"):
            if not folder.is_dir():
                return
            for path in paths:
                path.unlink(missing_ok=True)
            self._sync_folder(folder)

    def sweep(self, space: str, *, older_than_s: float) -> int:
        folder = self._folder(space)
        removed = 0
        with self._translated(f"sweeping {space!r}"):
            if not folder.is_dir():
                return 0
            for path in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")):
                with suppress(FileNotFoundError):  # renamed, or swept by another process, since the folder was listed
                    if _age_s(path) >= older_than_s:
                        path.unlink()
                        removed += 1
            with suppress(FileNotFoundError):  # removed by another process
                if _age_s(folder) >= older_than_s and not any(folder.iterdir()):
                    folder.rmdir()
                    self._sync_folder(self._root)
        return removed

    def spaces(self) -> Iterator[str]:
        with self._translated("listing"):
            names = sorted(path.name for path in self._root.iterdir() if path.is_dir())
        yield from filter(is_space, names)

    def entries(self, space: str) -> Iterator[BlobEntry]:
        folder = self._folder(space)
        with self._translated(f"listing {space!r}"):
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            found = [_entry(path) for path in paths if is_digest(path.name)]
        yield from (entry for entry in found if entry is not None)

    def ping(self) -> None:
        self._sync_failures.check(str(self._root))
        if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise StoreUnavailable(
                f"the folder of the blobs {self._root} cannot be written; check its owner and its mode"
            )

    def _folder(self, space: str) -> Path:
        return self._root / validate_client_name(space)

    def _path(self, space: str, digest: str) -> Path:
        return self._folder(space) / validate_digest(digest)

    @contextmanager
    def _staged(self, folder: Path, contents: Sequence[bytes]) -> Iterator[list[Path]]:
        """Write `contents` under temporary names; files that are not renamed are removed on leaving.

        They are written in parallel: syncs that wait at the same time share one commit of the file system's journal.
        """
        with ExitStack() as cleanup:

            def stage(content: bytes) -> Path:
                path = write_temporary(folder, content, durable=self._sync)
                cleanup.callback(path.unlink, missing_ok=True)
                return path

            yield run_parallel(stage, contents)

    def _sync_folder(self, folder: Path) -> None:
        if self._sync:
            sync(folder)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreUnavailable(f"{error.filename} was deleted in the meantime ({doing}); try again") from error
        except OSError as error:
            if isinstance(error, SyncFailed):
                self._sync_failures.record(str(error))
            if error.errno in _NO_SPACE:
                raise StoreFull(f"no space left under {self._root} ({doing}); free some; reads continue") from error
            raise StoreUnavailable(f"the disk failed under {self._root} ({doing}): {error}") from error


def _is_intact(path: Path, digest: str) -> bool:
    """Whether the blob exists undamaged. If so, reset its age."""
    try:
        if sha256(path.read_bytes()) != digest:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _entry(path: Path) -> BlobEntry | None:
    try:
        return BlobEntry(path.name, path.stat().st_size, _age_s(path))
    except FileNotFoundError:  # deleted since the folder was listed
        return None


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
