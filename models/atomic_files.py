"""Atomic, durable file writes: after a crash or a power loss a path holds its old content or all of the new content."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

TEMPORARY_PREFIX: Final = ".unfinished-"
"""Names of temporary files begin with this. A killed process leaves its temporary file behind."""

Content = bytes | Callable[[BinaryIO], object]
"""The bytes of a file, or a function that writes them to an open file."""


class SyncFailed(OSError):
    """The operating system could not flush data to the disk.

    Do not retry: the kernel may have dropped the pages that it failed to write, so the next sync can succeed although
    the data is lost (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    """


def write_atomically(path: Path, content: Content, *, durable: bool = True) -> None:
    """Write a file by renaming a finished temporary file in the same folder; missing folders are created.

    Args:
        path: the file to create or replace.
        content: its bytes, or a function that writes them.
        durable: whether the file survives a power loss once this returns.

    Raises:
        OSError: the file was not written; `path` is unchanged.
        SyncFailed: the new content may be lost by a power loss.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = write_temporary(path.parent, content, durable=durable)
    temporary.chmod(0o644)
    temporary.replace(path)
    if durable:
        sync(path.parent)


def write_temporary(folder: Path, content: Content, *, durable: bool = True) -> Path:
    """Write a new file under a temporary name in `folder`, readable by its owner alone, and return its path.

    Raises:
        OSError: no file is left behind. `SyncFailed` if only the sync failed.
    """
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            if durable:
                _fsync(file.fileno(), Path(name))
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def create_folder(folder: Path, *, durable: bool = True) -> None:
    """Create a folder and its missing parents, for this user alone, and sync the folder that holds each.

    Raises:
        OSError: it cannot be created. `SyncFailed` if a power loss may lose it.
    """
    new = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    for path in reversed(new):
        path.mkdir(mode=0o700, exist_ok=True)
        if durable:
            sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk.

    Raises:
        OSError: `path` cannot be opened. `SyncFailed` if it cannot be flushed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        _fsync(handle, path)
    finally:
        os.close(handle)


def _fsync(handle: int, path: Path) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        raise SyncFailed(error.errno, error.strerror, str(path)) from error
