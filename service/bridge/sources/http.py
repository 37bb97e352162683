"""Pictures that are posted over HTTP. The response is the verdict. The same server has /status."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.bridge.config import HttpSource, read_secret
from service.bridge.sources.base import Source
from service.bridge.verdict import Picture, Verdict

RESPONSE_LIMIT_S: Final = 30.0
"""How long a sender waits for its verdict."""

MAX_CONNECTIONS: Final = 64
"""Senders at the same time, which bounds the memory for their pictures. Others get 503."""


class Http(Source):
    """A server with `POST /pictures` and `GET /status`.

    Args:
        config: address, token and limits.
        status: returns the counters.
    """

    def __init__(self, config: HttpSource, status: Callable[[], dict[str, object]]) -> None:
        super().__init__(config.name)
        self._config = config
        self._status = status
        self._token = read_secret(config.token_file)
        self._waiting: dict[str, asyncio.Future[Verdict | None]] = {}
        self._received: asyncio.Queue[Picture] = asyncio.Queue()

    async def pictures(self) -> AsyncIterator[Picture]:
        """Serve, and yield what is posted."""
        routes = [Route("/pictures", self._receive, methods=["POST"]), Route("/status", self._show, methods=["GET"])]
        listening = _listen(self._config.host, self._config.port)
        app = Starlette(routes=routes)
        server = _Server(uvicorn.Config(app, log_level="warning", lifespan="off", limit_concurrency=MAX_CONNECTIONS))
        serving = asyncio.create_task(server.serve([listening]))
        try:
            while True:
                yield await self._received.get()
        finally:
            server.should_exit = True
            await serving

    def judged(self, verdict: Verdict) -> None:
        """Answer the sender."""
        self._answer(verdict.picture.id, verdict)

    def dropped(self, picture: Picture) -> None:
        """Tell the sender to try again."""
        self._answer(picture.id, None)

    def _answer(self, picture: str, verdict: Verdict | None) -> None:
        waiting = self._waiting.pop(picture, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(verdict)

    async def _receive(self, request: Request) -> Response:
        if rejected := self._unauthorized(request):
            return rejected
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > self._config.max_bytes:
                return _problem(413, f"the picture has more than {self._config.max_bytes} bytes (max_bytes)")
        if not content:
            return _problem(422, "the body is empty; send an image file as the body")
        picture = Picture(self.name, request.query_params.get("name", ""), bytes(content))
        self._waiting[picture.id] = asyncio.get_running_loop().create_future()
        self._received.put_nowait(picture)
        try:
            verdict = await asyncio.wait_for(self._waiting[picture.id], RESPONSE_LIMIT_S)
        except TimeoutError:
            return _problem(503, f"there is no verdict after {RESPONSE_LIMIT_S:g} s; Anole does not respond")
        finally:
            self._waiting.pop(picture.id, None)
        if verdict is None:
            return _problem(503, "too many pictures wait, and this one was dropped; send it again")
        return JSONResponse(verdict.fields())

    async def _show(self, request: Request) -> Response:
        return self._unauthorized(request) or JSONResponse(self._status())

    def _unauthorized(self, request: Request) -> Response | None:
        if self._token is None:
            return None
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(sent.encode(), self._token.encode()):
            return None
        return _problem(401, "send the token of token_file: 'Authorization: Bearer TOKEN'")


class _Server(uvicorn.Server):
    """Leaves signals to the bridge."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}; is the port in use?") from error


def _problem(status: int, detail: str) -> JSONResponse:
    content: dict[str, Any] = {"status": status, "detail": detail}
    return JSONResponse(content, status, media_type="application/problem+json")
