"""Finds the images of a folder as they appear in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from service.client.datasets import IMAGE_SUFFIXES
from service.client.errors import InvalidInput
from service.client.folders import shown, why_not


class FolderScan:
    """Finds images that are complete: their size and time of modification were the same at the scan before.

    Args:
        folder: folder to watch, with its sub-folders.
        on_skipped: called once for each file or folder that is left out, with its path and the reason.
    """

    def __init__(self, folder: Path, on_skipped: Callable[[str, str], object]) -> None:
        self._folder = folder
        self._on_skipped = on_skipped
        self._skipped: set[str] = set()
        self._before: dict[Path, tuple[int, int]] = {}

    def complete(self) -> Iterator[tuple[Path, str, str]]:
        """Yield path, path within the folder and time of modification of the images that are complete, by time.

        Raises:
            InvalidInput: the folder cannot be read.
        """
        now = dict(self._images(self._folder))
        before, self._before = self._before, now
        for path, state in sorted(now.items(), key=lambda item: (item[1][1], item[0])):
            if state != before.get(path):
                continue
            if state[0] == 0:
                self._skip(path, "empty so far")
            else:
                time = datetime.fromtimestamp(state[1] / 1e9, UTC).isoformat(timespec="microseconds")
                yield path, self._name(path), time

    def _images(self, folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if folder == self._folder:
                raise InvalidInput(f"cannot read {shown(folder)}: {error.strerror or error}") from error
            if not isinstance(error, FileNotFoundError):  # deleted in the meantime
                self._skip(folder, f"cannot be read: {error.strerror or error}")
            return
        for entry in entries:
            path = Path(entry.path)
            if reason := why_not(path):
                self._skip(path, reason)
            elif entry.is_symlink() and entry.is_dir():
                self._skip(path, "a link to a folder; watch that folder itself")  # links may lead in a circle
            elif entry.is_dir():
                yield from self._images(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                state = _state(path)
                if state is not None:
                    yield path, state

    def _skip(self, path: Path, reason: str) -> None:
        name = self._name(path)
        if name not in self._skipped:
            self._skipped.add(name)
            self._on_skipped(name, reason)

    def _name(self, path: Path) -> str:
        return shown(path.relative_to(self._folder))


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # deleted or moved in the meantime
        return None
    return found.st_size, found.st_mtime_ns
