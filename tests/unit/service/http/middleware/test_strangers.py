"""Requests without a key, to public paths or by strangers, are limited by address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from service.domain.key import Grant
from service.http.middleware.auth import (
    DELAY_S,
    MAX_DELAYED,
    PUBLIC_BURST_S,
    PUBLIC_IN_FLIGHT,
    PUBLIC_RATE_PER_S,
    AuthMiddleware,
)
from service.http.scopes import CALLER
from service.settings import load_settings
from service.telemetry import Telemetry
from service.usecases.keys import KeyCache, create
from tests.unit.service.fakes import FakeKeys

BURST = int(PUBLIC_BURST_S * PUBLIC_RATE_PER_S)


class Site:
    """The middleware before an application that responds with 200, on a clock that stands still."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] | None = None) -> None:
        self.slept: list[float] = []
        self.served = 0
        keys = FakeKeys()
        self.key, _ = create(keys, Grant("camera", ("predict",), ("*",)))
        context = SimpleNamespace(services=SimpleNamespace(keys=KeyCache(keys, open_without_keys=False)))
        self._app = SimpleNamespace(state=SimpleNamespace(context=context))
        self._auth = AuthMiddleware(self._respond, load_settings(), Telemetry(), lambda: 0.0, sleep or self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        assert CALLER in scope
        self.served += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def get(self, path: str, address: str = "192.0.2.7", key: str | None = None, method: str = "GET") -> int:
        """Return the status of a request."""
        headers = [(b"host", b"127.0.0.1"), *([(b"x-api-key", key.encode())] if key else [])]
        scope = {"type": "http", "method": method, "path": path, "client": (address, 1), "headers": headers}
        statuses: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self._auth({**scope, "app": self._app}, lambda: None, send)  # type: ignore[arg-type, return-value]
        return statuses[0]


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [("/livez", None, 200), ("/docs/swagger-ui.css", None, 200), ("/clients", None, 401), ("/clients", "wrong", 401)],
    ids=["public", "static file", "no key", "wrong key"],
)
def test_one_address_gets_so_many_responses_a_second_without_a_key(path: str, key: str | None, status: int) -> None:
    async def talk() -> None:
        site = Site()
        assert {await site.get(path, key=key) for _ in range(BURST)} == {status}
        assert await site.get(path, key=key) == 429
        assert await site.get("/readyz") == 429
        assert await site.get("/readyz", address="192.0.2.8") == 200

    asyncio.run(talk())


def test_logins_count_like_other_requests_without_a_key() -> None:
    async def talk() -> None:
        site = Site()
        assert {await site.get("/session", method="POST") for _ in range(BURST)} == {200}
        assert await site.get("/session", method="POST") == 429
        assert site.slept == [DELAY_S]

    asyncio.run(talk())


def test_a_flood_without_a_key_takes_nothing_from_a_key_at_the_same_address() -> None:
    async def talk() -> None:
        site = Site()
        for _ in range(BURST + 10):
            await site.get("/livez")
        assert await site.get("/clients", key=site.key) == 200

    asyncio.run(talk())


def test_rejections_are_held_back_and_only_so_many_at_the_same_time() -> None:
    async def talk() -> None:
        go, asked = asyncio.Event(), list[float]()

        async def sleep(seconds: float) -> None:
            asked.append(seconds)
            await go.wait()

        site = Site(sleep)
        for _ in range(BURST):
            await site.get("/livez")
        held = [asyncio.create_task(site.get("/livez")) for _ in range(MAX_DELAYED)]
        while len(asked) < MAX_DELAYED:
            await asyncio.sleep(0)
        assert await site.get("/livez") == 429  # one more is not held back
        assert asked == [DELAY_S] * MAX_DELAYED
        assert not any(task.done() for task in held)
        go.set()
        assert set(await asyncio.gather(*held)) == {429}

    asyncio.run(talk())


def test_one_address_has_so_many_public_requests_at_the_same_time() -> None:
    class Slow(Site):
        go = asyncio.Event()

        async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
            await self.go.wait()
            await super()._respond(scope, receive, send)

    async def talk() -> None:
        site = Slow()
        running = [asyncio.create_task(site.get("/readyz")) for _ in range(PUBLIC_IN_FLIGHT)]
        await asyncio.sleep(0)
        assert await site.get("/readyz") == 429
        site.go.set()
        assert set(await asyncio.gather(*running)) == {200}
        assert await site.get("/readyz") == 200

    asyncio.run(talk())
