"""Every operation of the API can be reached by a method of the Python client."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from service.client import Client, ClientSettings, ServiceUnreachable
from tests.in_process import operation_of, operations
from tests.unit.service.scripted_job import SAMPLES

EXAMPLES: Final[dict[str, Any]] = {
    "after": 2,
    "alias": "live",
    "at": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "before": 1,
    "candidate": 3,
    "changes": {"keep_last": 3},
    "client": "line",
    "content": b"onnx",
    "digest": "b" * 64,
    "images": [b"\x89PNG"],
    "job": "5f1c",
    "name": "surfaces",
    "relabel": {"b" * 64: "good"},
    "remove": ["c" * 64],
    "samples": SAMPLES,
    "settings": ClientSettings(),
    "version": 1,
}
"""An argument for each parameter, by its name."""


def requests_of(method: str) -> list[httpx.Request]:
    """Return what a method sends: with required arguments only, and with all that have an example."""
    seen: list[httpx.Request] = []

    def unreachable(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise httpx.ConnectError("recorded")

    parameters = inspect.signature(getattr(Client, method)).parameters
    needed = {name: each for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD and name != "self"}
    required = [name for name, each in needed.items() if each.default is each.empty]
    for names in (required, [name for name in parameters if name in EXAMPLES]):
        transport = httpx.MockTransport(unreachable)
        with Client(transport=transport, sleep=lambda _: None) as anole, contextlib.suppress(ServiceUnreachable):
            sent = getattr(anole, method)(**{name: EXAMPLES[name] for name in names})
            if isinstance(sent, Generator):
                next(sent)
    return seen


def test_every_operation_can_be_reached_by_a_method() -> None:
    methods = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    sent = [request for method in sorted(methods) for request in requests_of(method)]
    reached = {operation_of(request.method, request.url.path) for request in sent}
    assert operations().keys() - reached == set()
