"""Call an application in this process from blocking code, and check that each problem is in the OpenAPI description."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from service.http.app import create_app
from service.http.problems import MEDIA_TYPE
from service.settings import load_settings

PNG = b"\x89PNG fakes do not decode this"


UNDESCRIBED = {"head_ambiguous", "body_too_large", "body_too_slow", "internal_error", "overloaded"}
"""Codes that every route can respond with. The description names them once."""


@functools.cache
def description() -> dict[str, Any]:
    """Return the OpenAPI description, which does not depend on settings."""
    return create_app(load_settings()).openapi()


def operations() -> dict[str, tuple[str, str]]:
    """Return method and path of each operation by its id, without those of a browser's login, and of the Open Inference
    Protocol, which has clients of its own.
    """
    return {
        operation["operationId"]: (method, path)
        for path, methods in description()["paths"].items()
        for method, operation in methods.items()
        if operation["operationId"] not in {"log_in", "log_out"} and "inference protocol" not in operation["tags"]
    }


def operation_of(method: str, path: str) -> str | None:
    """Return the id of the operation that a request is for, or None if it is not described."""
    for name, (described, template) in operations().items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if method.lower() == described and re.fullmatch(pattern, path):
            return name
    return None


@functools.cache
def described_codes(method: str, path: str) -> frozenset[str] | None:
    """Return the codes that the description lists for a request, or None if it has no such operation."""
    for template, operations in description()["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path, re.DOTALL) and method.lower() in operations:
            responses = operations[method.lower()]["responses"].values()
            contents = [response.get("content", {}).get(MEDIA_TYPE, {}) for response in responses]
            return frozenset(code for content in contents for code in content.get("examples", {}))
    return None


def check_described(response: httpx.Response) -> None:
    """Check that a problem is described."""
    if response.headers.get("content-type") != MEDIA_TYPE or response.request.method == "HEAD":
        return
    problem = response.json()
    codes = described_codes(response.request.method, problem["instance"])
    assert codes is None or problem["code"] in codes | UNDESCRIBED, (response.request.url, problem)


class Web:
    """A started application.

    Attributes:
        portal: runs coroutines in the event loop of the application.
        transport: for an asynchronous client.
        services: its use cases.
    """

    def __init__(self, portal: BlockingPortal, app: FastAPI, services: Any) -> None:
        self.portal = portal
        self.services = services
        self.transport = httpx.ASGITransport(app)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        response: httpx.Response = self.portal.call(self._call, method, path, options)
        return response

    async def _call(self, method: str, path: str, options: Mapping[str, Any]) -> httpx.Response:
        async with httpx.AsyncClient(transport=self.transport, base_url="http://127.0.0.1") as http:
            response = await http.request(method, path, **options)
        check_described(response)
        return response

    def adapt(self, client: str = "line", labels: Sequence[str] = ("good", "bad"), **fields: Any) -> httpx.Response:
        files = [("samples", (f"{index}.png", PNG)) for index in range(len(labels))]
        return self("POST", "/adapt", data={"client": client, "labels": list(labels), **fields}, files=files)


class InProcess(httpx.BaseTransport):
    """Sends the requests of a blocking client to the application of `web`."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._web(
            request.method, str(request.url.raw_path, "ascii"), content=request.read(), headers=request.headers
        )
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)


@contextmanager
def started(app: FastAPI, services: Any = None) -> Iterator[Web]:
    """Start the application for the length of the block."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app.router.lifespan_context(app)):
        yield Web(portal, app, services)
