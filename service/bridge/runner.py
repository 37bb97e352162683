"""Runs the bridge: one task for each source and sink, and one that asks Anole.

Queues are bounded. A full queue drops its oldest entry, which is counted, so that a machine gets the newest verdicts
after an outage and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from service.bridge.counters import Counters, SinkCounters
from service.bridge.delivery import Delivery
from service.bridge.options import BridgeOptions
from service.bridge.rules import Rules
from service.bridge.sinks.base import Sink
from service.bridge.sources.base import Source
from service.bridge.verdict import Judgement, Picture, Verdict
from service.bridge.waiting import DropOldestQueue
from service.client import ClientError, PredictResponse, ServiceProblem, ServiceUnreachable

LOG: Final = logging.getLogger("anole.bridge")
_STATUS_EVERY_S: Final = 1.0
_ABOUT_THE_PICTURE: Final = frozenset({400, 413, 415, 422})
"""Statuses with which Anole rejects a picture. With others it rejects the client or the key, or is busy."""

Predict = Callable[[bytes], Awaitable[PredictResponse]]


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
        self._deliveries = [
            Delivery(sink, size, counters.sinks[sink.name], options, self._settle) for sink, size in sinks
        ]
        self._undelivered: dict[str, int] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources.values():
                tasks.create_task(self._read(source), name=f"source {source.name}")
            for delivery in self._deliveries:
                tasks.create_task(delivery.run(), name=f"sink {delivery.sink.name}")
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
            except Exception as error:  # whatever it is, the other sources must go on
                expected = isinstance(error, (*source.connection_errors, ClientError))
                self.counters.reconnects[source.name] += 1
                LOG.warning(
                    "source %s: %s; connecting again",
                    source.name,
                    str(error) or type(error).__name__,
                    exc_info=None if expected else error,
                )
                await backoff.wait()

    async def _judge(self) -> None:
        while True:
            picture = await self._pictures.get()
            judgement, error = await self._ask(picture)
            verdict = self._rules.apply(picture, judgement, error)
            self.counters.judged += 1
            self.counters.rejected += bool(error)
            self.counters.results[verdict.result] += 1
            self._show(verdict)
            self._source_of(picture).judged(verdict)
            if self._deliveries:
                self._undelivered[picture.id] = len(self._deliveries)
            for delivery in self._deliveries:
                delivery.put(verdict)

    def _show(self, verdict: Verdict) -> None:
        """Print the verdict. A full disk or a closed pipe keeps it from the screen, not from the machines."""
        try:
            self._options.on_verdict(verdict)
        except OSError as error:
            LOG.warning("cannot print verdict %d: %s", verdict.number, error)

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
            except Exception as error:  # a picture that cannot be sent must not stop those that follow
                LOG.exception("picture %s of source %s cannot be judged", picture.name, picture.source)
                return None, f"the bridge cannot have it judged: {str(error) or type(error).__name__}"

    def _settle(self, verdict: Verdict) -> None:
        """Note that one more sink is done with a verdict. After the last one, the source may forget the picture."""
        left = self._undelivered[verdict.picture.id] - 1
        if left:
            self._undelivered[verdict.picture.id] = left
        else:
            del self._undelivered[verdict.picture.id]
            self._source_of(verdict.picture).delivered(verdict.picture)

    def _drop_picture(self, picture: Picture) -> None:
        self.counters.dropped += 1
        self._source_of(picture).dropped(picture)

    def _source_of(self, picture: Picture) -> Source:
        return self._sources[picture.source]

    async def _write_status(self, path: Path) -> None:
        """Write the counters to a file every second. A reader sees an old or a new file, and no half of one."""
        temporary, told = path.with_name(f".{path.name}.new"), False
        while True:
            try:
                temporary.write_text(json.dumps(self.counters.to_json(), indent=1) + "\n", encoding="utf-8")
                temporary.replace(path)
                told = False
            except OSError as error:
                if not told:
                    LOG.warning("cannot write the status file: %s", error)
                told = True
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
