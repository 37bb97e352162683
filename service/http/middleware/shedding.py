"""Refuses what nobody will work on, before anything else is looked at: no key, no header, no byte of a body.

When requests come ten times as fast as they can be answered, refusing them is most of the work, so it takes the
shortest way there is: one answer, made beforehand, and one log line a second for all of them. Whoever is refused here
learns that the service is busy and nothing else. It knows addresses and rooms, and no resource.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Overloaded
from service.http.dependencies import AdmissionLimit
from service.http.middleware.logging import HEADERS
from service.http.problems import answer_to
from service.telemetry import Telemetry

RETRY_S = 2
_REPORT_S = 1.0


class Shedding:
    """Answers requests to full rooms by itself, and passes all others on.

    Args:
        app: answers the others.
        rooms: the room that the requests to an address need, by method and whole path; None before there is one.
        telemetry: counts what is refused.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        rooms: Mapping[tuple[str, str], Callable[[], AdmissionLimit | None]],
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._rooms = rooms
        self._clock = clock
        self._ids, self._count = secrets.token_hex(10), itertools.count()
        self._refusals = {address: _Refusal(address, telemetry) for address in rooms}
        self._log = structlog.get_logger("anole.shedding")
        self._unreported, self._reported_at = 0, -_REPORT_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "http":
            address = scope["method"], scope["path"]
            find = self._rooms.get(address)
            room = None if find is None else find()
            if room is not None and room.full:
                await self._refuse(self._refusals[address], send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, refusal: _Refusal, send: Send) -> None:
        request_id = f"{self._ids}{next(self._count):012x}".encode()
        headers = [*refusal.headers, (b"x-request-id", request_id)]
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": refusal.body})
        refusal.count()
        self._unreported += 1
        now = self._clock()
        if now - self._reported_at >= _REPORT_S:
            self._log.warning("refused unread", count=self._unreported, path=refusal.path)
            self._unreported, self._reported_at = 0, now


class _Refusal:
    """The answer to all requests of one address, and the figures that it counts in."""

    def __init__(self, address: tuple[str, str], telemetry: Telemetry) -> None:
        method, self.path = address
        work = self.path.removeprefix("/")
        error = Overloaded(f"every place to {work} is taken; try again in {RETRY_S} s", retry_after_s=RETRY_S)
        answer = answer_to(error, self.path)
        self.status, self.body = answer.status_code, bytes(answer.body)
        fixed = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
        self.headers = [*answer.raw_headers, *fixed]
        self._counters = (
            telemetry.requests.labels(method, self.path, str(self.status)),
            telemetry.refused.labels(work),
        )

    def count(self) -> None:
        for counter in self._counters:
            counter.inc()
