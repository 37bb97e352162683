"""Pictures that appear in a folder, each once, also across restarts."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Final

from service.bridge.appending import append_whole, replace_whole
from service.bridge.config import FolderSource
from service.bridge.sources.base import Source
from service.bridge.verdict import Picture, Verdict
from service.client import InvalidInput
from service.client.watched_folder import FolderScan

AHEAD: Final = 16
"""Pictures that wait for Anole at the same time. The others wait in the folder, so that none of them is dropped."""

MAX_STATE_LINES: Final = 10_000
"""Lines of the state file until those of pictures that have left the folder are removed."""

LOG: Final = logging.getLogger("anole.bridge")


class Folder(Source):
    """A folder and its sub-folders.

    A picture is done when every sink has taken its verdict. Then a line with its time and name is appended to the state
    file. After a restart the others come again, so a verdict may come twice, with the same id, but none is lost.

    The file keeps the lines of pictures that are in the folder and, so that a folder that is not mounted for a moment
    forgets nothing, those of others until there are many.

    Args:
        config: the folder.
        max_state_lines: see `MAX_STATE_LINES`.
    """

    connection_errors = (OSError, InvalidInput)

    def __init__(self, config: FolderSource, max_state_lines: int = MAX_STATE_LINES) -> None:
        super().__init__(config.name)
        self._config = config
        self._keys: dict[str, str] = {}
        self._unjudged: set[str] = set()
        self._settled = asyncio.Event()
        self._done = _read_state(config.state)
        self._max_state_lines = max_state_lines
        self._scan = FolderScan(config.path, lambda name, reason: LOG.warning("skipped %s: %s", name, reason))

    async def pictures(self) -> AsyncIterator[Picture]:
        """Yield the pictures that are complete and not done, and look again, for ever."""
        while True:
            found = await asyncio.to_thread(lambda: list(self._scan.complete()))
            self._forget_others({_key(name, time) for _, name, time in found})
            for path, name, time in found:
                key = _key(name, time)
                if key in self._done or (identity := self._identity(name, time)) in self._keys:
                    continue
                picture = await asyncio.to_thread(self._read, path, name, time, identity)
                if picture is not None:
                    self._keys[identity] = key
                    self._unjudged.add(identity)
                    yield picture
                    await self._until_fewer_wait()
            await asyncio.sleep(self._config.every_s)

    def delivered(self, picture: Picture) -> None:
        """Write down that the picture is done."""
        key = self._keys.pop(picture.id)
        self._done.add(key)
        try:
            append_whole(self._config.state, f"{key}\n".encode())
        except OSError as error:
            LOG.warning("%s is judged again after a restart, because of the state file: %s", picture.name, error)

    def judged(self, verdict: Verdict) -> None:
        """Go on with the next picture."""
        self._unjudged.discard(verdict.picture.id)
        self._settled.set()

    def dropped(self, picture: Picture) -> None:
        """Let the picture come again, because it is still in the folder."""
        del self._keys[picture.id]
        self._unjudged.discard(picture.id)
        self._settled.set()

    def _forget_others(self, present: set[str]) -> None:
        """Remove the lines of other pictures than these from the state file, if there are many."""
        kept = self._done & present
        if not kept or len(self._done) <= max(self._max_state_lines, 2 * len(kept)):
            return
        try:
            replace_whole(self._config.state, "".join(f"{key}\n" for key in sorted(kept)).encode())
        except OSError as error:
            LOG.warning("the state file of source %s cannot be made smaller: %s", self.name, error)
        else:
            self._done = kept

    async def _until_fewer_wait(self) -> None:
        while len(self._unjudged) >= AHEAD:
            self._settled.clear()
            await self._settled.wait()

    def _identity(self, name: str, time: str) -> str:
        return hashlib.sha256(f"{self.name} {time} {name}".encode()).hexdigest()[:32]

    def _read(self, path: Path, name: str, time: str, identity: str) -> Picture | None:
        try:
            return Picture(self.name, name, path.read_bytes(), identity, datetime.fromisoformat(time))
        except OSError as error:
            LOG.warning("skipped %s: %s", name, error.strerror or error)
            return None


def _key(name: str, time: str) -> str:
    """Return the line of a picture in the state file."""
    return f"{time} {name}".replace("\n", "\\n")


def _read_state(path: Path) -> set[str]:
    """Return the lines of the state file. Raises InvalidInput."""
    try:
        path.touch()
        return set(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot use the state file {path}: {error}") from error
