"""Calls an application in this process, from plain blocking code: no port, no thread to wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

PNG = b"\x89PNG not looked at by fakes"


class Web:
    """An application that has been started.

    Attributes:
        portal: runs coroutines where the application runs.
        transport: for an awaiting client.
        services: the use cases behind it.
    """

    def __init__(self, portal: BlockingPortal, app: FastAPI, services: Any) -> None:
        self.portal = portal
        self.services = services
        self.transport = httpx.ASGITransport(app)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer: httpx.Response = self.portal.call(self._call, method, path, options)
        return answer

    async def _call(self, method: str, path: str, options: Mapping[str, Any]) -> httpx.Response:
        async with httpx.AsyncClient(transport=self.transport, base_url="http://127.0.0.1") as http:
            return await http.request(method, path, **options)

    def adapt(self, client: str = "line", labels: Sequence[str] = ("good", "bad"), **fields: str) -> httpx.Response:
        files = [("samples", (f"{index}.png", PNG)) for index in range(len(labels))]
        return self("POST", "/adapt", data={"client": client, "labels": list(labels), **fields}, files=files)


class InProcess(httpx.BaseTransport):
    """Hands a blocking client's requests to the application of `web`."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._web(
            request.method, str(request.url.raw_path, "ascii"), content=request.read(), headers=request.headers
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@contextmanager
def started(app: FastAPI, services: Any = None) -> Iterator[Web]:
    """Start the application, and stop it at the end."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app.router.lifespan_context(app)):
        yield Web(portal, app, services)
