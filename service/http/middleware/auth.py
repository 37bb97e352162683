"""Authentication and rate limits, before any byte of the body is read.

Which clients a key can access is checked where a client is named (``bound.py``).
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, ExitStack
from typing import Final

from anyio import CapacityLimiter, Lock, to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import AnoleError
from service.domain.key import ANONYMOUS, Caller
from service.domain.key import Scope as Permission
from service.errors import KeyRefused, RateExceeded, ScopeMissing
from service.http.middleware.headers import refuse_ambiguous, refuse_other_sites
from service.http.middleware.rate_limits import Allowance, Allowances
from service.http.problems import answer_to
from service.settings import Settings
from service.telemetry import Telemetry
from service.usecases.keys import KeyCache

KEY_ADAPTING: Final = 4
"""Adaptations of one key at the same time, waiting ones included."""

ADDRESS_RATE_PER_S: Final = 2000.0
"""Requests a second from one address, where no key is needed."""

ADDRESS_IN_FLIGHT: Final = 256
"""Requests from one address at the same time, where no key is needed."""

CALLER: Final = "anole.caller"
"""Where in the scope the caller is found behind the door."""

ADAPTING: Final = "anole.adapting"
"""Where in the scope lies what the caller's adaptation takes of its share, given back when the answer is sent; whoever
goes on adapting after that takes it over."""

PUBLIC: Final = re.compile(r"/|/livez|/readyz|/openapi\.json|/docs|/docs/[^/]+")
"""Paths that anybody may ask for: the process's health, and the description of the API with its page."""

_READABLE: Final = re.compile(
    r"/clients|/clients/[^/]+|/clients/[^/]+/(versions|history|settings)|/clients/[^/]+/(versions|aliases)/[^/]+"
    r"|/clients/[^/]+/versions/[^/]+/diff/[^/]+|/models|/models/[^/]+|/metrics"
)
_MOVES: Final = {"PUT": re.compile(r"/clients/[^/]+/aliases/[^/]+"), "POST": re.compile(r"/clients/[^/]+/rollback")}

_JOBS: Final = re.compile(r"(GET|DELETE) /jobs/[^/]+|GET /jobs/[^/]+/events")


def permission_for(method: str, path: str) -> Permission | None:
    """The scope that a request needs; None: any key will do. What is not named here needs `admin`."""
    if method == "GET" and _READABLE.fullmatch(path):
        return None
    if (method, path) == ("POST", "/predict"):
        return "predict"
    moves = (method in _MOVES and _MOVES[method].fullmatch(path)) or _JOBS.fullmatch(f"{method} {path}")
    return "adapt" if moves or (method, path) == ("POST", "/adapt") else "admin"


class AuthMiddleware:
    """Lets a request in with its caller in the scope, or answers it here."""

    def __init__(self, app: ASGIApp, settings: Settings, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry
        self._keyed = Allowances(Allowance(settings.key_in_flight, settings.key_rate_per_s))
        self._adapting = Allowances(Allowance(KEY_ADAPTING))
        self._addresses = Allowances(
            Allowance(max(ADDRESS_IN_FLIGHT, settings.key_in_flight), max(ADDRESS_RATE_PER_S, settings.key_rate_per_s))
        )
        self._reader = _Reader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with ExitStack() as taken:
            scope[ADAPTING] = taken.enter_context(ExitStack())
            try:
                for share in await self._let_in(scope):
                    taken.enter_context(share)
            except AnoleError as refusal:
                if isinstance(refusal, RateExceeded):
                    self._telemetry.refused.labels("rate").inc()
                await answer_to(refusal, scope["path"])(scope, receive, send)
                return
            await self._app(scope, receive, send)

    async def _let_in(self, scope: Scope) -> list[AbstractContextManager[None]]:
        """Put the caller into the scope; return what the request takes of its share."""
        refuse_ambiguous(scope)
        if PUBLIC.fullmatch(scope["path"]):
            scope[CALLER] = ANONYMOUS
            return []
        keys: KeyCache = scope["app"].state.context.services.keys
        await self._reader.freshen(keys)
        caller = keys.caller(presented_key(scope))
        if caller is ANONYMOUS:
            refuse_other_sites(scope)
        needed = permission_for(scope["method"], scope["path"])
        if needed is not None and needed not in caller.scopes:
            raise ScopeMissing(f"this needs a key with the scope {needed!r}; the one presented has not got it")
        scope[CALLER] = caller
        return self._shares(scope, caller)

    def _shares(self, scope: Scope, caller: Caller) -> list[AbstractContextManager[None]]:
        if caller is ANONYMOUS:
            return [self._addresses.taken((scope.get("client") or ("",))[0])]
        if (scope["method"], scope["path"]) == ("POST", "/adapt"):
            adapting: ExitStack = scope[ADAPTING]
            adapting.enter_context(self._adapting.taken(caller.prefix))
        return [self._keyed.taken(caller.prefix)]


class _Reader:
    """Has the keys read when they are no longer fresh, once however many requests wait, in a thread of its own."""

    def __init__(self) -> None:
        self._held: tuple[Lock, CapacityLimiter] | None = None

    async def freshen(self, keys: KeyCache) -> None:
        """Return when the keys are fresh. Raises StoreUnavailable."""
        if keys.fresh:
            return
        self._held = self._held or (Lock(), CapacityLimiter(1))
        lock, limiter = self._held
        async with lock:
            if not keys.fresh:
                await to_thread.run_sync(keys.read, limiter=limiter)


def presented_key(scope: Scope) -> bytes | None:
    """The key of a request, from either header.

    Raises:
        KeyRefused: more than one came, or an Authorization that is no Bearer.
    """
    found: list[bytes] = []
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise KeyRefused("the Authorization header is of another kind; send 'Authorization: Bearer KEY'")
            found.append(key.strip())
    if len(set(found)) > 1:
        raise KeyRefused("more than one key came; send one")
    return found[0] if found else None
