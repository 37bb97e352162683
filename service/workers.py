"""What the workers of one service share: a folder in memory, with a place for each worker.

A place is a locked file, so the system frees it when its worker ends, in whichever way. A new worker takes the first
free place and goes on with the files of the one before it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.errors import InvalidSettings

PLACES: Final = 64
"""Workers of one service at the same time."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder in it has a random name and belongs to this user alone


@contextmanager
def worker_folder() -> Iterator[Path]:
    """Create the folder for the workers of this service, in memory if there is such a file system, and delete it."""
    parent = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="anole-", dir=parent, ignore_cleanup_errors=True) as path:
        yield Path(path)


class WorkerPlace:
    """The place of this process in the folder.

    Attributes:
        folder: the folder.
        number: of the place, from 0.

    Args:
        folder: see `worker_folder`.

    Raises:
        InvalidSettings: there are too many workers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in range(PLACES):
            lock = _try_lock(folder / f"place-{number}")
            if lock is not None:
                self.number, self._free = number, weakref.finalize(self, os.close, lock)
                return
        raise InvalidSettings(f"all {PLACES} places of workers in {folder} are taken; start fewer workers")

    def free(self) -> Iterator[int]:
        """Yield the places of workers that have ended. No new worker takes one while it is yielded."""
        for path in self.folder.glob("place-*"):
            lock = _try_lock(path)
            if lock is not None:
                try:
                    yield int(path.name.removeprefix("place-"))
                finally:
                    os.close(lock)

    def leave(self, *, last_deletes: bool) -> None:
        """Free the place. With `last_deletes`, the last worker deletes the folder, for a supervisor that was killed."""
        self._free()
        if last_deletes and len(list(self.free())) == len(list(self.folder.glob("place-*"))):
            shutil.rmtree(self.folder, ignore_errors=True)


def _try_lock(path: Path) -> int | None:
    """Lock a file until the descriptor that is returned is closed; return None if another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
