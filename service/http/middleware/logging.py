"""What every request passes through, in plain ASGI: an id, headers, figures, a log line; limits on its body.

It knows no resource: which path takes which body comes in as rules. It runs before anything parses.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.errors import BodyTooLarge, MediaTypeUnsupported
from service.http.problems import answer_to
from service.telemetry import Telemetry

NOTES: Final = "anole.notes"
"""Where in the scope a handler may leave fields for the request's log line."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class BodyRule:
    """Which body the requests to some paths may bring.

    Attributes:
        path: the whole path must match.
        method: what follows holds for this method alone; others have no media type to keep to.
        max_bytes: of the body as sent.
        media_types: prefixes of allowed media types; empty: any, and none is needed.
    """

    path: re.Pattern[str]
    max_bytes: int
    method: str = ""
    media_types: tuple[str, ...] = ()


class RequestMiddleware:
    """Gives a request its id, its figures and its log line, and turns an unexpected error into a plain 500."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry
        self._ids, self._count = secrets.token_hex(10), itertools.count()
        self._log = structlog.get_logger("anole.request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"{self._ids}{next(self._count):012x}"
        scope[NOTES] = {"request_id": request_id}
        reply = _Reply(send, request_id)
        started = time.perf_counter()
        with self._telemetry.in_flight.track_inprogress():
            await self._answer(scope, receive, reply)
        self._record(scope, reply.status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            await self._app(scope, receive, reply)
        except ClientDisconnect:
            scope[NOTES]["disconnected"] = True
        except Exception as error:  # noqa: BLE001 - nothing lies beyond: it is logged whole and answered
            self._log.exception("request failed", request_id=scope[NOTES]["request_id"])
            if not reply.started:
                await answer_to(error, scope["path"])(scope, receive, reply)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._telemetry.requests.labels(method, route, str(status)).inc()
        self._telemetry.request_seconds.labels(route).observe(seconds)
        level = "error" if status == 500 else "info"
        fields: dict[str, Any] = {"method": method, "path": scope["path"], "status": status, **scope[NOTES]}
        getattr(self._log, level)("request", seconds=round(seconds, 6), **fields)


class _Reply:
    """`send` that adds headers to the answer and remembers its status (499: the other side went away first)."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 499
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


class BodyLimitMiddleware:
    """Refuses a body by its media type and its declared length unread, and by its counted length while it is read."""

    def __init__(self, app: ASGIApp, rules: Sequence[BodyRule]) -> None:
        self._app = app
        self._rules = tuple(rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule = next(rule for rule in self._rules if rule.path.fullmatch(scope["path"]))
        refusal = _refuse_unread(rule, scope)
        if refusal is not None:
            await answer_to(refusal, scope["path"])(scope, receive, send)
            return
        meter = _Meter(receive, send, rule.max_bytes)
        try:
            await self._app(scope, meter.receive, meter.send)
        except BodyTooLarge:
            if not meter.exceeded:
                raise
        if meter.exceeded and not meter.started:
            await answer_to(_too_large(rule.max_bytes), scope["path"])(scope, receive, send)


class _Meter:
    """Counts what is received; past the limit it raises, and whatever the application answers then is dropped."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._max_bytes = max_bytes
        self._received = 0
        self.exceeded = False
        self.started = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._max_bytes:
                self.exceeded = True
                raise _too_large(self._max_bytes)
        return message

    async def send(self, message: Message) -> None:
        if self.exceeded and not self.started:
            return
        self.started = True
        await self._send(message)


def _refuse_unread(rule: BodyRule, scope: Scope) -> BodyTooLarge | MediaTypeUnsupported | None:
    headers = Headers(scope=scope)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > rule.max_bytes:
        return _too_large(rule.max_bytes)
    if scope["method"] != rule.method:
        return None
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        return MediaTypeUnsupported(f"the body comes with Content-Encoding {encoding!r}; send it as it is")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not media_type.startswith(rule.media_types):
        came = repr(media_type) if media_type else "no Content-Type"
        return MediaTypeUnsupported(f"the body comes with {came}; this address takes {' or '.join(rule.media_types)}")
    return None


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than the {max_bytes} bytes allowed here; send fewer or smaller files")
