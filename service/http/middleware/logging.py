"""Gives each request an ID, response headers, metrics and a log line. Responds to HEAD as to GET."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import tracing
from service.errors import RETRY_STOPPING_S, Overloaded
from service.http.log_fields import LOG_FIELDS
from service.http.problems import CLIENT_CLOSED_REQUEST, error_response
from service.telemetry import Telemetry

UNLOGGED: Final = "anole.unlogged"
"""Key in the ASGI scope that suppresses the request's log line."""

ROUTE: Final = "anole.route"
"""Key in the ASGI scope of the route, for requests that are rejected before routing."""

_LOGGED_PARAMETERS: Final = frozenset({"client", "version"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class RequestMiddleware:
    """The outermost middleware. It also responds to unexpected errors with 500."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry
        self._prefix, self._count = secrets.token_hex(10), itertools.count()
        self._log = structlog.get_logger("anole.request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"{self._prefix}{next(self._count):012x}"
        scope[LOG_FIELDS] = {"request_id": request_id}
        response = _Response(send, {"X-Request-ID": request_id})
        span = tracing.begin_request(scope["headers"])
        if span is not None:
            scope[LOG_FIELDS]["trace_id"] = span.trace_id
            response.headers["traceresponse"] = span.traceresponse
        started = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # a copy, because the server leaves out the body if the method in its own is HEAD
            scope = {**scope, "method": "GET"}
        fields = structlog.contextvars.bound_contextvars(request_id=request_id)  # also for the lines of a job
        with self._telemetry.in_flight.track_inprogress(), fields:
            await self._handle(scope, receive, response)
        if span is not None:
            span.end(method, _route(scope), response.status)
        self._record(scope, method, response.status, time.perf_counter() - started)

    async def _handle(self, scope: Scope, receive: Receive, response: _Response) -> None:
        try:
            await self._app(scope, receive, response)
        except ClientDisconnect:
            scope[LOG_FIELDS]["disconnected"] = True
        except asyncio.CancelledError:  # the server stops, and the time for running requests is over
            if not response.started:
                await error_response(_stopping(), scope["path"])(scope, receive, response)
        except Exception as error:  # noqa: BLE001 - the outermost handler; the error is logged and becomes a 500
            self._log.exception("request failed", request_id=scope[LOG_FIELDS]["request_id"])
            if not response.started:
                await error_response(error, scope["path"])(scope, receive, response)

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = _route(scope)
        method = method if method in _METHODS else "other"
        self._telemetry.requests.labels(method, route, str(status)).inc()
        self._telemetry.request_seconds.labels(route).observe(seconds)
        if UNLOGGED in scope:
            return
        level = "error" if status == 500 else "info"
        named = {name: value for name, value in scope.get("path_params", {}).items() if name in _LOGGED_PARAMETERS}
        request = {"method": method, "path": scope["path"], "status": status}
        fields: dict[str, Any] = {**request, **named, **scope[LOG_FIELDS]}
        getattr(self._log, level)("request", seconds=round(seconds, 6), **fields)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or str(scope.get(ROUTE, "unmatched"))


def _stopping() -> Overloaded:
    return Overloaded(
        "the service is stopping and did not finish this request in time (ANOLE_STOP_S); send it again in "
        f"{RETRY_STOPPING_S} s, an adaptation with the same Idempotency-Key",
        RETRY_STOPPING_S,
    )


class _Response:
    """`send` that adds headers, makes redirects relative, and remembers the status."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self.headers = headers
        self.status = CLIENT_CLOSED_REQUEST
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(self.headers)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if self.status == HTTPStatus.TEMPORARY_REDIRECT:
                headers["Location"] = _relative(headers["Location"])
        await self._send(message)


def _relative(url: str) -> str:
    """Return the path and query of a URL. Behind a proxy, the service does not know the scheme and host of callers."""
    parts = urlsplit(url)
    path = f"/{parts.path.lstrip('/')}"  # two slashes would begin a host
    return f"{path}?{parts.query}" if parts.query else path
