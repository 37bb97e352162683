"""Authentication: who sends a request, before any byte of its body is read.

`scopes.py` checks what the caller may do. This middleware looks only at method, path and headers.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Final

import anyio
from anyio import CapacityLimiter, Lock, to_thread
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from models.errors import AnoleError
from service.domain.audit import ANONYMOUS_ID, Actor, acting_as
from service.domain.key import ANONYMOUS, Caller
from service.errors import KeyMissing, KeyRefused, RateExceeded
from service.http.log_fields import LOG_FIELDS, log_fields
from service.http.middleware.limits import ADAPT_ROUTES, GRPC_SERVICE, route_of
from service.http.middleware.rates import LocalTable, RateLimit, RateLimiter, UsageTable
from service.http.problems import AmbiguousHeaders, OriginRejected, error_response
from service.http.scopes import CALLER
from service.http.session import check_session_request, is_own_origin, session_key
from service.settings import Settings
from service.telemetry import Telemetry
from service.usecases.keys import KeyCache

KEY_ADAPTING: Final = 4
"""Adaptations of one key at the same time, including waiting ones."""

ADDRESS_RATE_PER_S: Final = 2000.0
"""Requests per second from one address, where no key is required."""

ADDRESS_IN_FLIGHT: Final = 256
"""Requests from one address at the same time, where no key is required."""

PUBLIC_RATE_PER_S: Final = 100.0
"""Requests per second from one address to public paths, or without a valid key."""

PUBLIC_BURST_S: Final = 10.0
"""An address that was idle may send the requests of this many seconds at once."""

PUBLIC_IN_FLIGHT: Final = 64
"""Of these, requests at the same time."""

DELAY_S: Final = 2.0
"""How long the rejection of such a request is held back. A sender that repeats at once is slowed down by it."""

MAX_DELAYED: Final = 2048
"""Rejections held back at the same time; further ones are sent at once."""

ADAPTING: Final = "anole.adapting"
"""Key in the ASGI scope of an `ExitStack` that counts the caller's adaptation. It is closed when the request
ends, unless a job takes it over."""

PUBLIC: Final = re.compile(
    r"\*|/|/livez|/readyz|/session|/openapi\.json|/docs|/docs/[^/]+|/console/[^/]+(?:/[^/]+)?"
    r"|/v2|/v2/health/(?:live|ready)"
    rf"|/{re.escape(GRPC_SERVICE)}/Server(?:Live|Ready|Metadata)"
)
"""Paths that need no key: health, the web page and its login, and the description of the API."""

_HOST: Final = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class AuthMiddleware:
    """Puts the caller into the ASGI scope, or responds with 400, 401, 403 or 429.

    Args:
        app: the wrapped application.
        settings: the limits of a key, and the allowed origins.
        telemetry: counts rejected requests.
        clock: monotonic seconds.
        sleep: waits for a number of seconds.
        usage: returns the table with that name of what callers have used.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        usage: Callable[[str], UsageTable] = lambda _name: LocalTable(),
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._sleep, self._delayed = sleep, 0
        self._origins = settings.cors_origins
        strangers = RateLimit(PUBLIC_IN_FLIGHT, PUBLIC_RATE_PER_S, burst_s=PUBLIC_BURST_S)
        self._strangers = RateLimiter(strangers, clock, usage("strangers"))
        keys = RateLimit(settings.key_in_flight, settings.key_rate_per_s, "ANOLE_KEY_IN_FLIGHT", "ANOLE_KEY_RATE_PER_S")
        self._keys = RateLimiter(keys, usage=usage("keys"))
        self._adapting = RateLimiter(RateLimit(KEY_ADAPTING), usage=usage("adapting"))
        addresses = RateLimit(
            max(ADDRESS_IN_FLIGHT, settings.key_in_flight), max(ADDRESS_RATE_PER_S, settings.key_rate_per_s)
        )
        self._addresses = RateLimiter(addresses, usage=usage("addresses"))
        self._lock, self._thread = Lock(), CapacityLimiter(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with ExitStack() as counted:
            scope[ADAPTING] = counted.enter_context(ExitStack())
            try:
                check_ambiguity(scope)
                if PUBLIC.fullmatch(scope["path"]):
                    await self._admit_stranger(scope, counted)
                    caller = ANONYMOUS
                else:
                    caller, by_cookie = await self._authenticate(scope, counted)
                    self._count(scope, caller, counted)
                    if by_cookie:
                        check_session_request(scope)
            except AnoleError as error:
                if isinstance(error, RateExceeded):
                    self._telemetry.refused.labels("rate").inc()
                await error_response(error, scope["path"])(scope, receive, send)
                return
            scope[CALLER] = caller
            with _acting(scope, caller):
                await self._app(scope, receive, send)

    async def _admit_stranger(self, scope: Scope, counted: ExitStack) -> None:
        """Count a request without a key by its address.

        Raises:
            RateExceeded: the address has sent too many. It is raised after a while, because a sender that repeats
                rejected requests at once would otherwise take as much time of the process as with accepted ones.
        """
        try:
            counted.enter_context(self._strangers.request(_address(scope)))
        except RateExceeded:
            if self._delayed < MAX_DELAYED:
                self._delayed += 1
                try:
                    await self._sleep(DELAY_S)
                finally:
                    self._delayed -= 1
            raise

    async def _authenticate(self, scope: Scope, counted: ExitStack) -> tuple[Caller, bool]:
        """Return the caller, and whether the cookie of a session says so."""
        keys: KeyCache = scope["app"].state.context.services.keys
        await self._refresh(keys)
        try:
            key, by_cookie = credentials(scope)
            caller = keys.caller(key)
        except (KeyMissing, KeyRefused):
            await self._admit_stranger(scope, counted)
            raise
        if caller is ANONYMOUS:
            check_origin(scope, self._origins)
        return caller, by_cookie and caller is not ANONYMOUS

    async def _refresh(self, keys: KeyCache) -> None:
        """Read the keys again if they are too old: once for all requests that wait, in a thread of its own."""
        if keys.fresh:
            return
        async with self._lock:
            if not keys.fresh:
                await to_thread.run_sync(keys.read, limiter=self._thread)

    def _count(self, scope: Scope, caller: Caller, counted: ExitStack) -> None:
        if caller is ANONYMOUS:
            counted.enter_context(self._addresses.request(_address(scope)))
            return
        if route_of(scope) in ADAPT_ROUTES:
            adapting: ExitStack = scope[ADAPTING]
            adapting.enter_context(self._adapting.request(caller.prefix))
        counted.enter_context(self._keys.request(caller.prefix))


@contextmanager
def _acting(scope: Scope, caller: Caller) -> Iterator[None]:
    """Name the caller in the audit log, and its key in every log line of the request."""
    request_id: str | None = scope.get(LOG_FIELDS, {}).get("request_id")
    key = {"key": caller.prefix} if caller.prefix else {}
    log_fields(scope, **key)
    with acting_as(Actor(caller.prefix or ANONYMOUS_ID, caller.name, request_id)), bound_contextvars(**key):
        yield


def _address(scope: Scope) -> str:
    """Return the address that the request came from."""
    return str((scope.get("client") or ("",))[0])


def credentials(scope: Scope) -> tuple[bytes | None, bool]:
    """Return the key of a request, or None, and whether it comes from the cookie. A key in a header is preferred.

    Raises:
        KeyRefused: see `presented_key`.
    """
    key = presented_key(scope)
    return (session_key(scope), True) if key is None else (key, False)


def presented_key(scope: Scope) -> bytes | None:
    """Return the key from the headers X-API-Key or Authorization.

    Raises:
        KeyRefused: there is more than one key, or Authorization is not of the type Bearer.
    """
    found: list[bytes] = []
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise KeyRefused("the Authorization header has an unsupported type; send 'Authorization: Bearer KEY'")
            found.append(key.strip())
    if len(set(found)) > 1:
        raise KeyRefused("more than one key was sent; send one")
    return found[0] if found else None


def check_ambiguity(scope: Scope) -> None:
    """Reject requests with two body lengths or without exactly one Host, which may smuggle in another request.

    Raises:
        AmbiguousHeaders: names the header.
    """
    names = [name for name, _ in scope["headers"]]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise AmbiguousHeaders("the headers Content-Length and Transfer-Encoding were both sent; send one of them")
    for name in (b"content-length", b"transfer-encoding", b"host"):
        if names.count(name) > 1:
            raise AmbiguousHeaders(f"the header {name.decode()} was sent {names.count(name)} times; send it once")
    host = _header(scope, b"host")
    if host is None and scope.get("http_version") == "1.0":
        return
    if host is None or not _HOST.fullmatch(host):
        raise AmbiguousHeaders("the Host header is missing or malformed; send the host that you connect to")


def check_origin(scope: Scope, allowed: Collection[str] = ()) -> None:
    """Reject requests that a browser sends for a page of another site, on services that require no key.

    Such a service is for users of this machine, but any web page in a browser here can send requests to it.

    Args:
        scope: the ASGI scope.
        allowed: origins whose pages may send requests.

    Raises:
        OriginRejected: the Origin differs in scheme, host or port, or the Host is a name that anybody could own.
    """
    host = _header(scope, b"host") or ""
    origin = _header(scope, b"origin")
    if origin is not None and origin not in allowed and not is_own_origin(origin.lower(), scope):
        raise OriginRejected(
            "a page of another site sent this request, which is allowed only with an API key, or from an origin in "
            "ANOLE_CORS_ORIGINS"
        )
    if host and not _is_address(host):
        raise OriginRejected(
            f"the request was sent to {host[:80]!r}; while the service requires no key, use an IP address such as "
            "127.0.0.1, or localhost; or create a key with `anole keys create`"
        )


@functools.lru_cache
def _is_address(host: str) -> bool:
    found = _HOST.fullmatch(host)
    name = found["name"].strip("[]") if found else ""
    try:
        ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True


def _header(scope: Scope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)
