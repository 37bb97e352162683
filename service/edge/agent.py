"""The agent: polls a repository, installs what its ring should run, watches it, and goes back where it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog

from service.edge.bundle import MAX_RELEASE_BYTES, MAX_START_BYTES, Release, Start
from service.edge.errors import AnoleMismatch, EdgeError, NothingInstalled, ReleaseInvalid
from service.edge.installed import Installed, InstalledReleases
from service.edge.predictor import LoadedRelease, LoadedStart
from service.edge.repository import TrustedRepository
from service.edge.rings import Rollout

POLL_JITTER: Final = 0.5
"""A poll waits this share of the interval less or more, so that devices that start together spread out."""

FIRST_RETRY: Final = (0.1, 0.3)
"""Least and largest share of the interval before a failed poll is repeated; they double with each further failure."""


@dataclass(slots=True)
class Counts:
    """What happened since a release was loaded. Only these numbers are ever reported.

    Attributes:
        images: predicted.
        unknown: of them, with the verdict unknown.
        failed: predictions that ended with an internal error.
        seconds: time of all predictions together.
    """

    images: int = 0
    unknown: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Active:
    """A release that predicts, the file that it comes from, and its counts."""

    installed: Installed
    loaded: LoadedRelease
    counts: Counts = field(default_factory=Counts)


class Agent:
    """The releases of one channel on this device. Predictions and polls may run in different threads.

    Args:
        installed: the data folder.
        repository: where releases come from.
        channel: which releases.
        clients: only these clients; empty: all of the channel.
        starts: loaded starts by the SHA-256 (hex) of their files. Agents of one process may share them.

    Attributes:
        channel: as given.
        problem: why the latest poll failed, or None.
        polls: number of polls.
        rollbacks: releases that were refused or taken back, since the agent started.
    """

    def __init__(
        self,
        installed: InstalledReleases,
        repository: TrustedRepository,
        channel: str,
        clients: Sequence[str] = (),
        starts: dict[str, LoadedStart] | None = None,
    ) -> None:
        self._installed = installed
        self._repository = repository
        self.channel = channel
        self._clients = frozenset(clients)
        self._active: dict[str, _Active] = {}
        self._starts = {} if starts is None else starts
        self._lock = threading.Lock()
        self._settled = False
        self._log = structlog.get_logger("anole.edge")
        self.problem: str | None = None
        self.polls = 0
        self.rollbacks = 0

    def load(self) -> None:
        """Load what is installed. A damaged current release gives way to the previous one."""
        for client, releases in self._installed.state.clients.items():
            for installed in (releases.current, releases.previous):
                if installed is None:
                    continue
                try:
                    self._activate(client, installed)
                    break
                except ReleaseInvalid as error:
                    self._log.warning("release not loaded", client=client, reason=str(error))

    def poll(self) -> bool:
        """Ask the repository once, and install what is new. Returns whether the repository had news.

        Failures are kept in `problem` and logged; what is installed goes on predicting.
        """
        self.polls += 1
        try:
            self._installed.check_clock()
            news = self._repository.has_news()
            if news:
                self._settled = False
                self._repository.refresh()
            if not self._settled:
                self._update()
                self._settled = True
            self.problem = None
        except (EdgeError, OSError) as error:
            news = self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - an agent that stops to poll cannot be mended from afar
            self._log.exception("poll failed")
            news = self._failed(f"internal error: {error!r}")
        return news

    def _failed(self, reason: str) -> bool:
        if self.problem != reason:
            self._log.warning("poll failed", reason=reason)
        self.problem = reason
        return False

    def record(self, release: LoadedRelease, counts: Counts) -> None:
        """Add what a request did to the counts of its release, and go back if they breach its health rule."""
        client = release.info.client
        with self._lock:
            active = self._active.get(client)
            if active is None or active.loaded is not release:
                return
            total = active.counts
            total.images += counts.images
            total.unknown += counts.unknown
            total.failed += counts.failed
            total.seconds += counts.seconds
            reason = _breach(release, total)
            if reason is None or self._installed.releases(client).previous is None:
                return
            try:
                self._go_back(client, active.installed, reason)
            except OSError as error:  # the predictions are right all the same; the next request tries again
                self._log.error("release not taken back", client=client, reason=str(error))

    def release(self, client: str) -> LoadedRelease:
        """The current release of a client. Raises NothingInstalled."""
        active = self._active.get(client)
        if active is None:
            known = ", ".join(sorted(self._active)) or "none"
            raise NothingInstalled(
                f"this device has no release of client {client!r}; installed: {known}; publish one with "
                f"`anole release {client} --channel {self.channel}`, and see /readyz for the state of the agent"
            )
        return active.loaded

    def summary(self) -> dict[str, tuple[LoadedRelease, Counts]]:
        """The current release of each client and its counts."""
        return {client: (active.loaded, active.counts) for client, active in sorted(self._active.items())}

    def running(self) -> dict[str, str]:
        """SHA-256 (hex) of the file of each client's current release."""
        return {client: active.installed.release for client, active in self._active.items()}

    def refused(self) -> dict[str, tuple[str, ...]]:
        """SHA-256 (hex) of the releases that failed here, by client."""
        return {client: releases.refused for client, releases in sorted(self._installed.state.clients.items())}

    @property
    def transferred(self) -> tuple[int, int]:
        """Requests to the repository, and bytes of content received, since the agent started."""
        return self._repository.fetcher.requests, self._repository.fetcher.received_bytes

    @property
    def device(self) -> str:
        """Id of the device."""
        return self._installed.state.device

    def _update(self) -> None:
        """Install what the channel wants of this device; a client that fails does not keep the others back."""
        state = self._repository.channel(self.channel)
        if state is None:
            raise ReleaseInvalid(f"the repository has no channel {self.channel!r}; publish a release to it")
        self._installed.accept_serial(self.channel, state.serial)
        failures = []
        for client, rollout in state.clients.items():
            if self._clients and client not in self._clients:
                continue
            try:
                self._follow(client, rollout)
            except EdgeError as error:
                failures.append(f"{client}: {error}")
        if failures:
            raise ReleaseInvalid("; ".join(failures))

    def _follow(self, client: str, rollout: Rollout) -> None:
        """Install the best release that did not fail here, if it is not the current one."""
        refused = self._installed.releases(client).refused
        for target, start in rollout.wanted(self.device):
            release_digest = self._repository.sha256(target)
            if release_digest not in refused:
                installed = Installed(target=target, release=release_digest, start=self._repository.sha256(start))
                active = self._active.get(client)
                if active is None or active.installed != installed:
                    self._install(client, installed, start)
                if rollout.halted:
                    self._installed.forget_previous(client, rollout.target)
                return

    def _install(self, client: str, installed: Installed, start_path: str) -> None:
        self._fetch_start(start_path, installed.start)
        content = self._installed.fetch(installed.release, self._download(installed.target, MAX_RELEASE_BYTES))
        try:
            self._check(client, installed, content)
        except AnoleMismatch:
            raise
        except ReleaseInvalid as error:
            with self._lock:
                self._installed.refuse(client, installed.release)
                self.rollbacks += 1
            raise ReleaseInvalid(f"release {installed.target} is refused on this device: {error}") from error
        self._log.info("release installed", client=client, target=installed.target)

    def _check(self, client: str, installed: Installed, content: bytes) -> None:
        """Load a release, check its smoke set, then swap."""
        release = Release.from_bytes(content)
        if release.info.client != client:
            raise ReleaseInvalid(f"it is a release of client {release.info.client!r}, not of {client!r}")
        loaded = LoadedRelease(release, self._start(installed.start))
        loaded.check_smoke_set()
        with self._lock:
            self._installed.install(client, installed)
            self._active[client] = _Active(installed, loaded)

    def _activate(self, client: str, installed: Installed) -> None:
        release = Release.from_bytes(self._installed.read(installed.release))
        self._active[client] = _Active(installed, LoadedRelease(release, self._start(installed.start)))

    def _go_back(self, client: str, installed: Installed, reason: str) -> None:
        """Take a release back and predict with the previous one. The caller holds the lock."""
        self._log.error("release taken back", client=client, target=installed.target, reason=reason)
        self._installed.refuse(client, installed.release)
        self.rollbacks += 1
        self._settled = False  # the next poll installs the previous one again if it is damaged
        previous = self._installed.releases(client).current
        try:
            if previous is not None:
                self._activate(client, previous)
        except ReleaseInvalid as error:
            del self._active[client]
            self._log.warning("release not loaded", client=client, reason=str(error))

    def _fetch_start(self, path: str, digest: str) -> None:
        if digest not in self._starts:
            self._installed.fetch(digest, self._download(path, MAX_START_BYTES))

    def _start(self, digest: str) -> LoadedStart:
        """The start of that file, loaded once for all releases."""
        if digest not in self._starts:
            self._starts[digest] = LoadedStart(Start.from_bytes(self._installed.read(digest)))
        return self._starts[digest]

    def _download(self, path: str, max_bytes: int) -> Callable[..., None]:
        return lambda file: self._repository.download(path, file, max_bytes)


def _breach(release: LoadedRelease, counts: Counts) -> str | None:
    """Say which part of the release's health rule the counts breach, or None."""
    rule = release.info.health
    if counts.images + counts.failed < rule.least_images:
        return None
    failed = counts.failed / (counts.images + counts.failed)
    if failed > rule.max_failed:
        return f"{failed:.1%} of the predictions failed; at most {rule.max_failed:.1%} may"
    unknown = counts.unknown / max(counts.images, 1)
    if unknown > rule.max_unknown:
        return f"{unknown:.1%} of the images are unknown; at most {rule.max_unknown:.1%} may be"
    return None


def follow(
    agent: Agent,
    interval_s: float,
    stop: threading.Event,
    generator: np.random.Generator,
    on_poll: Callable[[], None] = lambda: None,
) -> None:
    """Poll until `stop` is set, at intervals that vary by `POLL_JITTER`, and sooner after a failure.

    Args:
        agent: polls.
        interval_s: average seconds between polls. The first poll comes at once if nothing is installed.
        stop: ends the loop.
        generator: of the jitter.
        on_poll: called after every poll.
    """
    wait_s, failures = generator.uniform(0, interval_s) if agent.summary() else 0.0, 0
    while not stop.wait(wait_s):
        agent.poll()
        try:
            on_poll()
        except Exception:  # noqa: BLE001 - as for a poll: the device must go on following its channel
            structlog.get_logger("anole.edge").exception("the call after a poll failed")
        failures = 0 if agent.problem is None else failures + 1
        wait_s = interval_s * generator.uniform(1 - POLL_JITTER, 1 + POLL_JITTER)
        if failures:
            wait_s = min(wait_s, interval_s * generator.uniform(*FIRST_RETRY) * 2.0 ** min(failures - 1, 10))
