"""Verdicts, sources, sinks and a broker for tests of the bridge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from service.bridge.config import BridgeConfig, RulesConfig, SinkConfig, SourceConfig
from service.bridge.counters import Counters
from service.bridge.options import BridgeOptions
from service.bridge.rules import Rules
from service.bridge.runner import Bridge
from service.bridge.sinks.base import Sink
from service.bridge.sources.base import Source
from service.bridge.verdict import Judgement, Picture, Verdict
from service.bridge.waiting import Backoff
from service.client import PredictResponse
from tests.mosquitto import Broker

T = TypeVar("T")

LIMIT_S = 60
PNG = b"\x89PNG part"
RULES = RulesConfig.model_validate({"pass": ["good"]})
GOOD = Judgement("good", 0.9, known=True, classes=("bad", "good"), version=3)
BAD = Judgement("bad", 0.8, known=True, classes=("bad", "good"), version=3)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, for a minute at most."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S) as limit:
            result = await main
        if limit.expired():  # something took the cancellation for an error, and went on
            raise TimeoutError(f"it took more than {LIMIT_S} s")
        return result

    return asyncio.run(limited())


def source_config(**fields: Any) -> SourceConfig:
    return _whole(source=[fields], sink=[{"type": "csv", "path": "x"}]).source[0]


def sink_config(**fields: Any) -> SinkConfig:
    return _whole(source=[{"type": "camera", "device": 0}], sink=[fields]).sink[0]


def _whole(**tables: Any) -> BridgeConfig:
    return BridgeConfig.model_validate({"anole": {"client": "line"}, "rules": {"pass": ["good"]}, **tables})


def verdict(judgement: Judgement | None = GOOD, rules: Rules | None = None, name: str = "part.png") -> Verdict:
    rules = rules or Rules(RULES, "line")
    return rules.apply(Picture("camera", name, PNG), judgement, "" if judgement else "not an image")


def answer(label: str = "good", confidence: float = 0.9, **fields: Any) -> PredictResponse:
    prediction = {
        "name": "image", "label": label, "confidence": confidence, "verdict": "known", "unknown_score": 0.1,
        "unknown_threshold": 0.5, "familiarity": 0.9, "scores": {"good": 0.9, "bad": 0.1}, **fields,
    }  # fmt: skip
    body = {"client": "line", "version": 3, "weights_digest": "d" * 64, "predictions": [prediction], "seconds": 0.01}
    return PredictResponse.model_validate_json(json.dumps(body))


async def always_good(_: bytes) -> PredictResponse:
    return answer()


class Scripted(Source):
    """Yields the pictures that a test puts into `queue`, and raises the errors that it puts there."""

    connection_errors = (ConnectionError,)

    def __init__(self, name: str = "camera") -> None:
        super().__init__(name)
        self.queue: asyncio.Queue[Picture | ConnectionError] = asyncio.Queue()
        self.events: list[tuple[str, str]] = []

    def put(self, *names: str) -> None:
        for name in names:
            self.queue.put_nowait(Picture(self.name, name, PNG))

    async def pictures(self) -> AsyncIterator[Picture]:
        while True:
            entry = await self.queue.get()
            if isinstance(entry, ConnectionError):
                raise entry
            yield entry

    def judged(self, verdict: Verdict) -> None:
        self.events.append(("judged", verdict.picture.name))

    def delivered(self, picture: Picture) -> None:
        self.events.append(("delivered", picture.name))

    def dropped(self, picture: Picture) -> None:
        self.events.append(("dropped", picture.name))


class Recorded(Sink):
    """Passes what it is sent on to `sent`. Raises the errors that a test puts into `errors` first."""

    connection_errors = (ConnectionError,)

    def __init__(self, name: str = "machine") -> None:
        super().__init__(name)
        self.sent: asyncio.Queue[str] = asyncio.Queue()
        self.errors: list[Exception] = []
        self.connections = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        self.connections += 1
        yield

    async def send(self, verdict: Verdict) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.sent.put_nowait(verdict.picture.name)

    async def names(self, count: int) -> list[str]:
        return [await self.sent.get() for _ in range(count)]


async def _no_wait(_: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def running(
    sources: Sequence[Source],
    sinks: Sequence[tuple[Sink, int]],
    predict: Callable[[bytes], Awaitable[PredictResponse]] = always_good,
    **options: Any,
) -> AsyncIterator[Bridge]:
    """Run a bridge inside the block, without waits between attempts."""
    options.setdefault("backoff", lambda: Backoff(sleep=_no_wait))
    bridge = Bridge(sources, sinks, predict, Rules(RULES, "line"), Counters(), BridgeOptions(**options))
    task = asyncio.create_task(bridge.run())
    try:
        yield bridge
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled(), task.exception()
