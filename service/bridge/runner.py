"""Runs the bridge: one task for each source and sink, and one that asks Anole.

Queues are bounded. A full queue drops its oldest entry, which is counted, so that a machine gets the newest verdicts
after an outage and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

import tenacity

from service.bridge.counters import Counters, SinkCounters
from service.bridge.rules import Rules
from service.bridge.sinks.base import Sink, VerdictRejected
from service.bridge.sources.base import Source
from service.bridge.verdict import Judgement, Picture, Verdict
from service.client import PredictResponse, ServiceProblem, ServiceUnreachable

T = TypeVar("T")

LOG: Final = logging.getLogger("anole.bridge")
LONGEST_WAIT_S: Final = 30.0
_STATUS_EVERY_S: Final = 1.0
_ABOUT_THE_PICTURE: Final = frozenset({400, 413, 415, 422})
"""Statuses with which Anole rejects a picture. With others it rejects the client or the key, or is busy."""

Predict = Callable[[bytes], Awaitable[PredictResponse]]


class DropOldestQueue(Generic[T]):
    """A queue that drops its oldest entry when it is full.

    Args:
        size: entries at most.
        on_dropped: called with the entry.
    """

    def __init__(self, size: int, on_dropped: Callable[[T], None]) -> None:
        self._entries: deque[T] = deque()
        self._size = size
        self._on_dropped = on_dropped
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: T) -> None:
        """Add an entry."""
        if len(self._entries) == self._size:
            self._on_dropped(self._entries.popleft())
        self._entries.append(entry)
        self._filled.set()

    async def get(self) -> T:
        """Remove the oldest entry and return it. Waits for one."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        return self._entries.popleft()


@dataclass(slots=True)
class Backoff:
    """Waits between attempts: exponential, with jitter, at most `LONGEST_WAIT_S`.

    Attributes:
        first_s: the longest first wait.
        sleep: waits for a number of seconds.
    """

    first_s: float = 0.5
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _failures: int = field(default=0, init=False)

    def reset(self) -> None:
        """Begin again with a short wait."""
        self._failures = 0

    async def wait(self) -> None:
        """Wait longer than the time before."""
        self._failures += 1
        state = tenacity.RetryCallState(tenacity.AsyncRetrying(), None, (), {})
        state.attempt_number = self._failures
        await self.sleep(tenacity.wait_random_exponential(self.first_s, LONGEST_WAIT_S)(state))


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """Options of a bridge.

    Attributes:
        queue: pictures that may wait for Anole.
        on_verdict: called with every verdict.
        status_file: file that the counters are written to, every second.
        backoff: makes the waits between attempts.
        check_every_s: how often a sink without verdicts checks its connection, in seconds.
    """

    queue: int = 100
    on_verdict: Callable[[Verdict], object] = lambda _verdict: None
    status_file: Path | None = None
    backoff: Callable[[], Backoff] = Backoff
    check_every_s: float = 5.0


class Bridge:
    """Connects sources, Anole and sinks.

    Args:
        sources: where pictures come from.
        sinks: where verdicts go, each with the size of its queue.
        predict: asks Anole about one image.
        rules: turn the answer into a verdict.
        counters: are kept up to date.
        options: the other options.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        sinks: Sequence[tuple[Sink, int]],
        predict: Predict,
        rules: Rules,
        counters: Counters,
        options: BridgeOptions,
    ) -> None:
        self.counters = counters
        counters.sinks.update({sink.name: SinkCounters() for sink, _ in sinks})
        self._sources = {source.name: source for source in sources}
        self._predict = predict
        self._rules = rules
        self._options = options
        self._pictures: DropOldestQueue[Picture] = DropOldestQueue(options.queue, self._drop_picture)
        self._sinks = [(sink, DropOldestQueue[Verdict](size, self._dropper(sink.name))) for sink, size in sinks]
        self._undelivered: dict[str, int] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources.values():
                tasks.create_task(self._read(source), name=f"source {source.name}")
            for sink, queue in self._sinks:
                tasks.create_task(self._deliver(sink, queue), name=f"sink {sink.name}")
            tasks.create_task(self._judge(), name="judge")
            if self._options.status_file is not None:
                tasks.create_task(self._write_status(self._options.status_file), name="status")

    async def _read(self, source: Source) -> None:
        """Read a source, and connect to it again when it fails."""
        backoff = self._options.backoff()
        while True:
            try:
                async for picture in source.pictures():
                    backoff.reset()
                    self.counters.pictures += 1
                    self._pictures.put(picture)
                return  # a source that has an end, such as a video file
            except source.connection_errors as error:
                self.counters.reconnects[source.name] += 1
                LOG.warning("source %s: %s; connecting again", source.name, str(error) or type(error).__name__)
                await backoff.wait()

    async def _judge(self) -> None:
        while True:
            picture = await self._pictures.get()
            judgement, error = await self._ask(picture)
            verdict = self._rules.apply(picture, judgement, error)
            self.counters.judged += 1
            self.counters.rejected += bool(error)
            self.counters.results[verdict.result] += 1
            self._options.on_verdict(verdict)
            self._source_of(picture).judged(verdict)
            if self._sinks:
                self._undelivered[picture.id] = len(self._sinks)
            for _, queue in self._sinks:
                queue.put(verdict)

    async def _ask(self, picture: Picture) -> tuple[Judgement | None, str]:
        """Ask Anole until it responds. Return what it says, or why it rejects the picture."""
        backoff = self._options.backoff()
        while True:
            try:
                return _judgement(await self._predict(picture.content)), ""
            except (ServiceProblem, ServiceUnreachable) as error:
                if isinstance(error, ServiceProblem) and error.status in _ABOUT_THE_PICTURE:
                    return None, str(error)
                self.counters.retries += 1
                self.counters.last_error = str(error)
                LOG.warning("waiting for Anole: %s", error)
                await backoff.wait()

    async def _deliver(self, sink: Sink, queue: DropOldestQueue[Verdict]) -> None:
        """Pass verdicts to a sink, and connect to it again when it fails. The verdict that failed is sent again."""
        backoff, counters = self._options.backoff(), self.counters.sinks[sink.name]
        verdict: Verdict | None = None
        while True:
            try:
                async with sink.connected():
                    while True:
                        verdict = verdict or await self._next(sink, queue)
                        await self._send(sink, verdict, counters)
                        verdict = None
                        backoff.reset()
            except sink.connection_errors as error:
                counters.reconnects += 1
                counters.last_error = str(error) or type(error).__name__
                LOG.warning("sink %s: %s; connecting again", sink.name, counters.last_error)
                await backoff.wait()

    async def _next(self, sink: Sink, queue: DropOldestQueue[Verdict]) -> Verdict:
        """Return the next verdict. While there is none, check the connection now and then."""
        while True:
            try:
                async with asyncio.timeout(self._options.check_every_s):
                    return await queue.get()
            except TimeoutError:
                await sink.check()

    async def _send(self, sink: Sink, verdict: Verdict, counters: SinkCounters) -> None:
        try:
            await sink.send(verdict)
        except VerdictRejected as error:
            LOG.warning("sink %s rejects verdict %s: %s", sink.name, verdict.picture.id, error)
            counters.dropped += 1
            counters.last_error = str(error)
        else:
            counters.sent += 1
            counters.lag_s = round(time.monotonic() - verdict.picture.received_s, 6)
        self._settle(verdict)

    def _settle(self, verdict: Verdict) -> None:
        """Note that one more sink is done with a verdict. After the last one, the source may forget the picture."""
        left = self._undelivered[verdict.picture.id] - 1
        if left:
            self._undelivered[verdict.picture.id] = left
        else:
            del self._undelivered[verdict.picture.id]
            self._source_of(verdict.picture).delivered(verdict.picture)

    def _dropper(self, name: str) -> Callable[[Verdict], None]:
        def drop(verdict: Verdict) -> None:
            self.counters.sinks[name].dropped += 1
            self._settle(verdict)

        return drop

    def _drop_picture(self, picture: Picture) -> None:
        self.counters.dropped += 1
        self._source_of(picture).dropped(picture)

    def _source_of(self, picture: Picture) -> Source:
        return self._sources[picture.source]

    async def _write_status(self, path: Path) -> None:
        """Write the counters to a file every second. A reader sees an old or a new file, and no half of one."""
        while True:
            temporary = path.with_name(f".{path.name}.new")
            try:
                temporary.write_text(json.dumps(self.counters.to_json(), indent=1) + "\n", encoding="utf-8")
                temporary.replace(path)
            except OSError as error:
                LOG.warning("cannot write the status file: %s", error)
            await asyncio.sleep(_STATUS_EVERY_S)


def _judgement(answer: PredictResponse) -> Judgement:
    (image,) = answer.predictions
    return Judgement(
        label=image.label,
        confidence=image.confidence,
        known=image.verdict == "known",
        classes=tuple(sorted(image.scores)),
        version=answer.version,
    )
