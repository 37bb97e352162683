"""What a device has installed: files named by their SHA-256, and one small document that says which of them count.

Installing writes and syncs the files first, then replaces the document, atomically and durably. A power loss at any
moment leaves the document from before or the new one, and the files that it names. Files are verified when they are
read, so a damaged disk is noticed too.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from models.atomic_files import TEMPORARY_PREFIX, sync, write_atomically
from service.edge.errors import ClockBehind, EdgeError, ReleaseInvalid

STATE: Final = "state.json"
FILES: Final = "files"
CLOCK_SLACK: Final = timedelta(days=1)
"""A clock may go back by this much, as it does when it is corrected."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Installed(_Kept):
    """A release that was installed: its path in the repository, and the SHA-256 (hex) of its file and its start's."""

    target: str
    release: str
    start: str


class ClientReleases(_Kept):
    """The releases of one client.

    Attributes:
        current: the one that predicts.
        previous: the one before; None for the first one.
        refused: SHA-256 (hex) of the releases that failed on this device, the newest last.
    """

    current: Installed | None = None
    previous: Installed | None = None
    refused: tuple[str, ...] = ()


class DeviceState(_Kept):
    """The document.

    Attributes:
        device: id of the device; it decides the ring, and is in no request.
        serials: the highest serial number that was accepted, by channel.
        clients: the releases, by client name.
        clock: a time that the clock has shown.
    """

    device: str
    serials: Mapping[str, int] = {}
    clients: Mapping[str, ClientReleases] = {}
    clock: datetime


_MOST_REFUSED: Final = 20


class InstalledReleases:
    """The data folder of a device. One process uses it at a time.

    Args:
        folder: of the data; created if missing.
        now: returns the time.

    Raises:
        EdgeError: the document is damaged.
        OSError: the folder cannot be used.

    Attributes:
        state: the document as it is on the disk.
    """

    def __init__(self, folder: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder = folder
        self._now = now
        self._lock = threading.RLock()
        (folder / FILES).mkdir(parents=True, exist_ok=True)
        sync(folder)
        path = folder / STATE
        if not path.exists():
            self._save(DeviceState(device=uuid.uuid4().hex, clock=now()))
        try:
            self.state = DeviceState.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise EdgeError(
                f"{path} is damaged: {error}; remove the folder {folder}, copy root.json there again and restart"
            ) from error

    def check_clock(self) -> None:
        """Compare the clock with the latest time that is known, which is written at most once a day.

        Raises:
            ClockBehind: an expired signature could pass for a valid one.
        """
        now, known = self._now(), self.state.clock
        if now < known - CLOCK_SLACK:
            raise ClockBehind(
                f"the clock shows {now:%Y-%m-%d %H:%M} UTC, but it was {known:%Y-%m-%d %H:%M} before; no release is "
                f"installed until it is set right; if the time before was wrong, stop the agent, correct `clock` in "
                f"{self._folder / STATE}, and start it again"
            )
        if now > known + CLOCK_SLACK:
            with self._lock:
                self._save(self.state.model_copy(update={"clock": now}))

    def accept_serial(self, channel: str, serial: int) -> None:
        """Remember a channel's serial number.

        Raises:
            ReleaseInvalid: it is smaller than one before.
        """
        known = self.state.serials.get(channel, -1)
        if serial < known:
            raise ReleaseInvalid(f"channel {channel!r} is at {serial}, and was at {known} before; it is replayed")
        if serial > known:
            with self._lock:
                self._save(self.state.model_copy(update={"serials": {**self.state.serials, channel: serial}}))

    def releases(self, client: str) -> ClientReleases:
        """The releases of a client; empty if there are none."""
        return self.state.clients.get(client, ClientReleases())

    def file(self, digest: str) -> Path:
        """Path of the file with that SHA-256 (hex)."""
        return self._folder / FILES / digest

    def read(self, digest: str) -> bytes:
        """Read a file and verify it.

        Raises:
            ReleaseInvalid: it is missing or damaged. It is removed, so that it is fetched again.
        """
        path = self.file(digest)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ReleaseInvalid(f"the file {path} cannot be read: {error}; it is fetched again") from error
        if hashlib.sha256(content).hexdigest() != digest:
            path.unlink(missing_ok=True)
            raise ReleaseInvalid(f"the file {path} is damaged; it is fetched again")
        return content

    def fetch(self, digest: str, download: Callable[[Path], None]) -> bytes:
        """Return a file, and download it first if it is missing or damaged. It is durable then.

        Args:
            digest: SHA-256 (hex) of its content.
            download: writes it to a path.
        """
        with suppress(ReleaseInvalid):
            return self.read(digest)
        unfinished = self._folder / FILES / f"{TEMPORARY_PREFIX}{digest}"
        try:
            download(unfinished)
            sync(unfinished)
            unfinished.replace(self.file(digest))
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync(self._folder / FILES)
        return self.read(digest)

    def install(self, client: str, installed: Installed) -> None:
        """Make a release the current one; the current one becomes the previous one."""
        with self._lock:
            before = self.releases(client)
            previous = before.previous if before.current == installed else before.current
            self._replace(client, before.model_copy(update={"current": installed, "previous": previous}))
            self._remove_unneeded()

    def refuse(self, client: str, release: str) -> None:
        """Remember that a release failed here. If it is the current one, the previous one becomes current."""
        with self._lock:
            before = self.releases(client)
            refused = tuple(dict.fromkeys((*before.refused, release)))[-_MOST_REFUSED:]
            changes: dict[str, object] = {"refused": refused}
            if before.current is not None and before.current.release == release:
                changes |= {"current": before.previous, "previous": None}
            self._replace(client, before.model_copy(update=changes))

    def forget_previous(self, client: str, target: str) -> None:
        """Forget the release before the current one if it is `target`, so that the device never goes back to it."""
        with self._lock:
            before = self.releases(client)
            if before.previous is not None and before.previous.target == target:
                self._replace(client, before.model_copy(update={"previous": None}))

    def _replace(self, client: str, releases: ClientReleases) -> None:
        self._save(self.state.model_copy(update={"clients": {**self.state.clients, client: releases}}))

    def _save(self, state: DeviceState) -> None:
        write_atomically(self._folder / STATE, state.model_dump_json(indent=2).encode())
        self.state = state

    def _remove_unneeded(self) -> None:
        """Remove files that no current or previous release needs, and unfinished ones."""
        kept = [each for one in self.state.clients.values() for each in (one.current, one.previous) if each is not None]
        needed = {digest for each in kept for digest in (each.release, each.start)}
        for path in (self._folder / FILES).iterdir():
            if path.name not in needed:
                path.unlink(missing_ok=True)
