"""Queues adaptations, and answers a request that is repeated with the same Idempotency-Key from the first one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from service.domain.version import Idempotency, Publication
from service.errors import IdempotencyInFlight
from service.runtime.adapt_queue import AdaptQueue, JobControl
from service.usecases.adapt import Adaptation
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome

Recall = Callable[[str, Idempotency], Publication | None]


class IdempotentAdaptation:
    """Queues adaptations, and answers repeated requests with the version that the first one made, even after a restart.

    Two equal requests that reach two processes at the same time may both adapt; the store publishes only the first.

    Args:
        adaptation: makes the versions.
        recall: see `Catalog.recall`.
        queue: runs the adaptations.
    """

    def __init__(self, adaptation: Adaptation, recall: Recall, queue: AdaptQueue) -> None:
        self._adaptation = adaptation
        self._recall = recall
        self._queue = queue
        self._lock = threading.Lock()
        self._in_flight: set[tuple[str, str]] = set()

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """Adapt and return the outcome. Blocks; see `submit` for the errors."""
        future, released = self.submit(command, JobControl()), threading.Event()
        future.add_done_callback(lambda _: released.set())  # runs last: then the same request may be sent again
        released.wait()
        return future.result()

    def submit(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        """Queue the adaptation, or return the outcome of an earlier request with the same key and body.

        Blocks briefly to look up the key. Cancelling the future withdraws the request until it starts.

        Raises:
            Overloaded: the service is stopping.
            Those of `Adaptation.accept`.
            IdempotencyInFlight: an earlier request with the same key is still running.
            IdempotencyMismatch: an earlier request with the same key had another body.
        """
        if command.idempotency is None:
            return self._queued(command, control)
        claim = (command.client, command.idempotency.key)
        self._acquire(claim)
        try:
            earlier = self._recall(command.client, command.idempotency)
            future = _replayed(earlier) if earlier else self._queued(command, control)
        except BaseException:
            self._release(claim)
            raise
        future.add_done_callback(lambda _: self._release(claim))
        return future

    def _queued(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        accepted = self._adaptation.accept(command, control)
        work = partial(self._adaptation.run, accepted, control)
        return self._queue.submit(command.client, work, control, accepted.decoding.images)

    def _acquire(self, claim: tuple[str, str]) -> None:
        with self._lock:
            if claim in self._in_flight:
                raise IdempotencyInFlight(
                    f"a request of client {claim[0]!r} with Idempotency-Key {claim[1]!r} is still running; wait for "
                    "its response, or try again in a moment"
                )
            self._in_flight.add(claim)

    def _release(self, claim: tuple[str, str]) -> None:
        with self._lock:
            self._in_flight.discard(claim)


def _replayed(earlier: Publication) -> Future[AdaptOutcome]:
    future: Future[AdaptOutcome] = Future()
    future.set_result(AdaptOutcome.of(earlier))
    return future
