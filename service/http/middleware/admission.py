"""Admission: a bounded number of requests, counted from before their body is read until their work has ended."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RETRY_BUSY_S, Overloaded
from service.http.middleware.logging import ROUTE, UNLOGGED
from service.http.problems import error_response
from service.telemetry import Telemetry

SLOT: Final = "anole.slot"
"""Key of the request's `Slot` in the ASGI scope."""

_REPORT_S: Final = 1.0


class AdmissionLimit:
    """A limit of one kind of work. Thread-safe.

    Args:
        work: name of the work, for metrics and messages.
        telemetry: counts rejected requests.
        requests: how many requests may be read, wait or run at the same time.
        images: how many images may wait or run at the same time. One request may bring more if it is the only one.
    """

    def __init__(self, work: str, telemetry: Telemetry, requests: int, images: float = math.inf) -> None:
        self.work = work
        self._telemetry = telemetry
        self._max_requests = requests
        self._max_images = images
        self._requests = 0
        self._images = 0
        self._lock = threading.Lock()  # work ends in other threads

    @property
    def requests(self) -> int:
        """Requests that are read, wait or run."""
        return self._requests

    @property
    def images(self) -> int:
        """Images that wait or run."""
        return self._images

    def admit(self) -> Slot:
        """Admit a request.

        Raises:
            Overloaded: the limit is reached.
        """
        with self._lock:
            if self._requests >= self._max_requests or self._images >= self._max_images:
                raise self._overloaded()
            self._requests += 1
        return Slot(self)

    def add_images(self, count: int) -> None:
        """Count the images of an admitted request.

        Raises:
            Overloaded: there are too many images together with those of other requests.
        """
        with self._lock:
            if self._images and self._images + count > self._max_images:
                raise self._overloaded()
            self._images += count

    def release(self, images: int) -> None:
        """Release a request and its images."""
        with self._lock:
            self._requests -= 1
            self._images -= images

    def _overloaded(self) -> Overloaded:
        self._telemetry.refused.labels(self.work).inc()
        return Overloaded(f"too many requests to {self.work} are waiting; try again in {RETRY_BUSY_S} s", RETRY_BUSY_S)


class Slot:
    """The place of one admitted request in its `AdmissionLimit`."""

    def __init__(self, limit: AdmissionLimit) -> None:
        self._limit = limit
        self._images = 0
        self._work: Future[Any] | None = None

    def add_images(self, count: int) -> None:
        """Count the images that the request brings. Raises Overloaded."""
        self._limit.add_images(count)
        self._images += count

    def hold_until_done(self, work: Future[Any]) -> None:
        """Keep the slot until `work` has ended or was cancelled, even if the request is answered before."""
        self._work = work

    def end_request(self) -> None:
        """Release the slot now, or when its work has ended."""
        if self._work is None:
            self._limit.release(self._images)
        else:
            self._work.add_done_callback(lambda _: self._limit.release(self._images))


class AdmissionMiddleware:
    """Admits requests to some routes before a byte of their body is read, or answers 503.

    Under overload most requests are rejected, so rejections are counted but share one log line a second.

    Args:
        app: the wrapped application.
        limits: (method, path) -> the limit that applies.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Mapping[tuple[str, str], AdmissionLimit],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._limits = limits
        self._clock = clock
        self._log = structlog.get_logger("anole.admission")
        self._unreported, self._reported_at = 0, -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        limit = self._limits.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if limit is None:
            await self._app(scope, receive, send)
            return
        try:
            slot = scope[SLOT] = limit.admit()
        except Overloaded as error:
            scope[ROUTE], scope[UNLOGGED] = scope["path"], True
            await error_response(error, scope["path"])(scope, receive, send)
            self._report(limit)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            slot.end_request()

    def _report(self, limit: AdmissionLimit) -> None:
        self._unreported += 1
        now = self._clock()
        if now - self._reported_at >= _REPORT_S:
            self._log.warning("requests rejected", count=self._unreported, work=limit.work)
            self._unreported, self._reported_at = 0, now
