"""The short way to what is asked for most: past the framework's routing and its solving of parameters.

They take longer than everything else around a prediction. The framework keeps the same endpoints for its description,
and for whatever does not ask for exactly such an address. This knows addresses and no resource.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import AnoleError
from service.http.dependencies import Context, context_of
from service.http.problems import answer_to, problem_of

Endpoint = Callable[[Request, Context], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Route:
    """What figures and log lines name a request by."""

    path: str


class Direct:
    """Answers the requests to some addresses by itself.

    Args:
        app: answers all others.
        endpoints: by method and whole path.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._app = app
        self._endpoints = {address: (endpoint, _Route(address[1])) for address, endpoint in endpoints.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        found = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, scope["route"] = found
        request = Request(scope, receive)
        try:
            response = await endpoint(request, context_of(request))
        except AnoleError as error:
            if problem_of(error) is None:
                raise
            response = answer_to(error, scope["path"])
        await response(scope, receive, send)
