"""Limits: how many requests are admitted and what their bodies may be."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded
from service.http.middleware.admission import AdmissionLimit, Slot
from service.http.middleware.logging import ROUTE, UNLOGGED
from service.http.problems import BodyTooLarge, BodyTooSlow, UnsupportedMediaType, error_response, of_setting
from service.http.scopes import caller_id

OTHER_BODY_BYTES: Final = 64 * 1024
"""Largest body of requests without `RouteLimits` of their own."""

SLOT: Final = "anole.slot"
"""Key of the request's `Slot` in the ASGI scope."""

CORRECTIONS: Final = ("POST", "/clients/{client}/corrections")

IMPORTS: Final = ("POST", "/clients/{client}/versions")

EXPORTS: Final = ("GET", "/clients/{client}/versions/{version}/export")
"""Exports run in the queue of adaptations, so they take its places. As `route_of` returns them."""

ADAPT_ROUTES: Final = frozenset({("POST", "/adapt"), ("POST", "/clients/{client}/upgrade"), CORRECTIONS, IMPORTS})
"""The routes that make versions, as `route_of` returns them."""

INFER_ROUTES: Final = frozenset(
    {("POST", "/v2/models/{client}/infer"), ("POST", "/v2/models/{client}/versions/{version}/infer")}
)
"""The routes of the Open Inference Protocol that predict, as `route_of` returns them."""

GRPC_SERVICE: Final = "inference.GRPCInferenceService"
"""The service of the Open Inference Protocol over gRPC. Its calls are requests `POST /SERVICE/METHOD`."""

GRPC_INFER: Final = ("POST", f"/{GRPC_SERVICE}/ModelInfer")

_CLIENT: Final = re.compile("(?<=^/clients/)[^/]+|(?<=^/v2/models/)[^/]+")
_VERSION: Final = re.compile(
    "(?<=^/v2/models/{client}/versions/)[^/]+|(?<=^/clients/{client}/versions/)[^/]+(?=/export$)"
)
_REPORT_S: Final = 1.0


def route_of(scope: Scope) -> tuple[str, str]:
    """Return the method and the path of a request, with "{client}" in place of a client's name.

    The number of a version becomes "{version}" in paths of exports and of the Open Inference Protocol.
    """
    return scope["method"], _VERSION.sub("{version}", _CLIENT.sub("{client}", scope["path"]))


@dataclass(frozen=True, slots=True)
class BodyPace:
    """How slowly a body may arrive, as in Apache's mod_reqtimeout.

    Attributes:
        body_s: seconds for a body without bytes; it gets one more second for each `bytes_per_s` that arrive.
        idle_s: longest pause in seconds.
        bytes_per_s: lowest rate, on average, of a body that takes longer than `body_s`.
    """

    body_s: float = 30.0
    idle_s: float = 20.0
    bytes_per_s: int = 32 * 1024

    def left_s(self, seconds: float, received: int) -> float:
        """Return the seconds that are left after so many seconds and bytes."""
        return max(0.0, self.body_s + received / self.bytes_per_s - seconds)

    def stalled(self, received: int) -> BodyTooSlow:
        """The error of a body that has paused for too long."""
        return BodyTooSlow(
            f"no byte of the body arrived for {self.idle_s:g} s, which is the limit (ANOLE_BODY_IDLE_S); {received} "
            "bytes arrived before: send the request again"
        )

    def too_slow(self, seconds: float, received: int) -> BodyTooSlow:
        """The error of a body that arrives too slowly."""
        return BodyTooSlow(
            f"{received} bytes of the body arrived in {seconds:.0f} s; allowed are {self.body_s:g} s (ANOLE_BODY_S), "
            f"and one more for each {self.bytes_per_s} bytes that arrive (ANOLE_BODY_BYTES_PER_S): send fewer or "
            "smaller files in one request"
        )


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """What a request may be, and how many there may be at the same time.

    Attributes:
        max_bytes: size of the body as sent.
        media_types: allowed media types, such as "image/png", or "image/" for all of a kind; empty: any, and none is
            required.
        admission: counts the requests; None: any number.
        setting: environment variable that sets `max_bytes`; empty if none does.
    """

    max_bytes: int = OTHER_BODY_BYTES
    media_types: tuple[str, ...] = ()
    admission: AdmissionLimit | None = None
    setting: str = ""


_JSON: Final = RouteLimits(media_types=("application/json",))
_MERGE_PATCH: Final = RouteLimits(media_types=("application/json", "application/merge-patch+json"))
_DEFAULT: Final = RouteLimits()


class LimitsMiddleware:
    """Admits a request before a byte of its body is read, or answers 503. Then limits the body.

    Bodies are rejected by media type and declared size before they are read, and by size while they are read. Under
    overload most requests are rejected, so rejections are counted but share one log line a second.

    Args:
        app: the wrapped application.
        limits: what `route_of` returns -> the limits of the route. Other routes for PUT and PATCH take JSON, and the
            rest any media type.
        pace: how slowly a body may arrive.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Mapping[tuple[str, str], RouteLimits],
        pace: BodyPace = BodyPace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._limits = limits
        self._pace = pace
        self._clock = clock
        self._log = structlog.get_logger("anole.admission")
        self._unreported, self._reported_at = 0, -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._limits.get(route_of(scope)) or _other_limits(scope)
        if limits.admission is None:
            await self._limit_body(limits, scope, receive, send)
            return
        try:
            slot = scope[SLOT] = limits.admission.admit(caller_id(scope))
        except Overloaded as error:
            await self._reject(error, limits.admission, scope, receive, send)
            return
        try:
            await self._limit_body(limits, scope, receive, send)
        finally:
            slot.end_request()

    async def _limit_body(self, limits: RouteLimits, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        rejected = _check_headers(limits, headers)
        if rejected is not None:
            await error_response(rejected, scope["path"])(scope, receive, send)
            return
        if limits.admission is not None:
            slot: Slot = scope[SLOT]
            try:
                slot.take_memory(_body_bytes(limits, headers))
            except Overloaded as error:
                await self._reject(error, limits.admission, scope, receive, send)
                return
        meter = _BodyMeter(receive, send, limits, self._pace)
        try:
            await self._app(scope, meter.receive, meter.send)
        except (BodyTooLarge, BodyTooSlow):
            if meter.error is None:
                raise
        if meter.error is not None and not meter.started:
            await error_response(meter.error, scope["path"])(scope, receive, send)

    async def _reject(
        self, error: Overloaded, limit: AdmissionLimit, scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope[ROUTE], scope[UNLOGGED] = route_of(scope)[1], True
        await error_response(error, scope["path"])(scope, receive, send)
        self._unreported += 1
        now = self._clock()
        if now - self._reported_at >= _REPORT_S:
            self._log.warning("requests rejected", count=self._unreported, work=limit.work)
            self._unreported, self._reported_at = 0, now


class _BodyMeter:
    """Counts the bytes of a body and the time that it takes.

    Beyond the limits it raises, and drops whatever the application responds.

    Attributes:
        error: what was raised.
        started: whether the response has begun.
    """

    def __init__(self, receive: Receive, send: Send, limits: RouteLimits, pace: BodyPace) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._pace = pace
        self._clock = asyncio.get_running_loop().time
        self._started_s = self._clock()
        self._received = 0
        self._complete = False
        self.error: BodyTooLarge | BodyTooSlow | None = None
        self.started = False

    async def receive(self) -> Message:
        """Receive the next message of the request; after the body, wait without a time limit."""
        message = await (self._receive() if self._complete else self._receive_in_time())
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._received > self._limits.max_bytes:
                self.error = _too_large(self._limits)
                raise self.error
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the response, unless the body was rejected before."""
        if self.error is not None and not self.started:
            return
        self.started = True
        await self._send(message)

    async def _receive_in_time(self) -> Message:
        left_s = self._pace.left_s(self._clock() - self._started_s, self._received)
        try:
            async with asyncio.timeout(min(self._pace.idle_s, left_s)):
                return await self._receive()
        except TimeoutError:
            if self._pace.idle_s < left_s:
                self.error = self._pace.stalled(self._received)
            else:
                self.error = self._pace.too_slow(self._clock() - self._started_s, self._received)
            raise self.error from None


def _other_limits(scope: Scope) -> RouteLimits:
    """Return the limits of a route that has none of its own. PUT and PATCH take JSON, if there is such a route."""
    if scope["method"] not in {"PUT", "PATCH"}:
        return _DEFAULT
    if not any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes):
        return _DEFAULT  # it is answered with 404 or 405
    return _MERGE_PATCH if scope["method"] == "PATCH" else _JSON


def _check_headers(limits: RouteLimits, headers: Headers) -> BodyTooLarge | UnsupportedMediaType | None:
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        return _too_large(limits)
    if not limits.media_types:
        return None
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        return UnsupportedMediaType(f"the body has Content-Encoding {encoding!r}; send it without an encoding")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any(
        media_type.startswith(allowed) if allowed.endswith("/") else media_type == allowed
        for allowed in limits.media_types
    ):
        sent = f"Content-Type {media_type!r}" if media_type else "no Content-Type"
        return UnsupportedMediaType(f"the body has {sent}; allowed: {' or '.join(limits.media_types)}")
    return None


def _body_bytes(limits: RouteLimits, headers: Headers) -> int:
    """The size of the body: as declared, else the largest that is allowed."""
    declared = headers.get("content-length", "")
    if declared.isdecimal():
        return int(declared)
    return limits.max_bytes if "transfer-encoding" in headers else 0


def _too_large(limits: RouteLimits) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has more than {limits.max_bytes} bytes, which is the limit{of_setting(limits.setting)}; send fewer "
        "or smaller files"
    )
