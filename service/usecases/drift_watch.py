"""Watches for drift while predictions are recorded: a metric, and a warning once an hour at most for each client."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import structlog

from models.errors import AnoleError
from service.usecases.judged import Judged

CHECK_EVERY_S: Final = 300.0
WARN_EVERY_S: Final = 3600.0


class DriftWatch:
    """Checks the clients whose predictions are recorded by this process. Not thread-safe.

    Args:
        judged: tells the drift of a client.
        clock: monotonic seconds.
    """

    def __init__(self, judged: Judged, clock: Callable[[], float] = time.monotonic) -> None:
        self._judged = judged
        self._clock = clock
        self._checked_at_s: dict[str, float] = {}
        self._warned_at_s: dict[str, float] = {}
        self._drifting: set[str] = set()
        self._log = structlog.get_logger("anole.drift")

    def check(self, clients: Collection[str]) -> None:
        """Check those of the clients, and of the clients that drifted, that were not checked lately."""
        now_s = self._clock()
        for client in sorted({*clients, *self._drifting}):
            if now_s - self._checked_at_s.get(client, -CHECK_EVERY_S) >= CHECK_EVERY_S:
                self._checked_at_s[client] = now_s
                self._check(client, now_s)

    def metrics(self) -> Mapping[str, float]:
        """Number of clients that drifted when they were last checked."""
        return {"drifting_clients": len(self._drifting)}

    def _check(self, client: str, now_s: float) -> None:
        try:
            report = self._judged.drift(client)
        except AnoleError as error:  # such as a client that was deleted, or has no live version
            self._drifting.discard(client)
            self._log.info("drift was not checked", client=client, reason=str(error))
            return
        if not report.drifting:
            self._drifting.discard(client)
            return
        self._drifting.add(client)
        if now_s - self._warned_at_s.get(client, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned_at_s[client] = now_s
            total = report.total
            self._log.warning(
                "the images drift", client=client, version=report.version, images=total.images, unknown=total.unknown
            )
