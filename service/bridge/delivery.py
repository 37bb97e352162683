"""Passes verdicts on to one sink."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from service.bridge.counters import SinkCounters
from service.bridge.options import BridgeOptions
from service.bridge.sinks.base import Sink, VerdictRejected
from service.bridge.verdict import Verdict
from service.bridge.waiting import DropOldestQueue
from service.client import ClientError

LOG: Final = logging.getLogger("anole.bridge")

UNEXPECTED_TRIES: Final = 5
"""How often a verdict is sent with which a sink fails unexpectedly. Then it is dropped, so that the next one comes."""


class Delivery:
    """A sink with its queue. It connects again after every error, so that no sink stops another one.

    Args:
        sink: where the verdicts go.
        queue_size: verdicts that may wait for it.
        counters: are kept up to date.
        options: of the bridge.
        on_settled: called with every verdict that was taken or dropped.
    """

    def __init__(
        self,
        sink: Sink,
        queue_size: int,
        counters: SinkCounters,
        options: BridgeOptions,
        on_settled: Callable[[Verdict], object],
    ) -> None:
        self.sink = sink
        self._counters = counters
        self._options = options
        self._on_settled = on_settled
        self._queue: DropOldestQueue[Verdict] = DropOldestQueue(queue_size, self._drop)
        self._in_hand: Verdict | None = None
        self._unexpected = 0

    def put(self, verdict: Verdict) -> None:
        """Queue a verdict."""
        self._queue.put(verdict)

    async def run(self) -> None:
        """Deliver until cancelled. The verdict that failed is sent again after the next connection."""
        backoff, counters = self._options.backoff(), self._counters
        while True:
            try:
                async with self.sink.connected():
                    while True:
                        self._in_hand = self._in_hand or await self._next()
                        await self._send(self._in_hand)
                        backoff.reset()
            except Exception as error:  # whatever it is, the other sinks must go on
                expected = isinstance(error, (*self.sink.connection_errors, ClientError))
                counters.reconnects += 1
                counters.last_error = _text(error)
                LOG.warning(
                    "sink %s: %s; connecting again",
                    self.sink.name,
                    counters.last_error,
                    exc_info=None if expected else error,
                )
                await backoff.wait()

    async def _next(self) -> Verdict:
        """Return the next verdict. While there is none, check the connection now and then."""
        while True:
            try:
                async with asyncio.timeout(self._options.check_every_s):
                    return await self._queue.get()
            except TimeoutError:
                await self.sink.check()

    async def _send(self, verdict: Verdict) -> None:
        try:
            await self.sink.send(verdict)
        except self.sink.connection_errors:
            raise
        except VerdictRejected as error:
            self._give_up(verdict, error)
        except Exception as error:  # perhaps a verdict that the sink cannot take at all
            self._unexpected += 1
            if self._unexpected < UNEXPECTED_TRIES:
                raise
            self._give_up(verdict, error)
        else:
            self._counters.sent += 1
            self._counters.lag_s = round(time.monotonic() - verdict.picture.received_s, 6)
            self._settle(verdict)

    def _give_up(self, verdict: Verdict, error: Exception) -> None:
        self._counters.last_error = _text(error)
        LOG.warning("sink %s does not take verdict %s: %s", self.sink.name, verdict.picture.id, _text(error))
        self._counters.dropped += 1
        self._settle(verdict)

    def _settle(self, verdict: Verdict) -> None:
        """Note that the verdict in hand was taken or dropped."""
        self._in_hand, self._unexpected = None, 0
        self._on_settled(verdict)

    def _drop(self, verdict: Verdict) -> None:
        """Note that the queue has dropped a verdict."""
        self._counters.dropped += 1
        self._on_settled(verdict)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
