"""Queues adaptations, and makes each one once, however often its request is repeated with the same Idempotency-Key."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from service.domain.version import LIVE, Idempotency, Publication
from service.errors import IdempotencyInFlight
from service.runtime.adapt_queue import AdaptQueue
from service.runtime.job_control import JobControl
from service.usecases.adapt import AdaptCommand, AdaptOutcome


class PublicationStore(Protocol):
    """The part of the store that finds the version of an earlier request."""

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """Return what was published with that key, or None."""
        ...


class Adapter(Protocol):
    """Makes versions, as `service.usecases.adapt.Adaptation` does."""

    def run(self, command: AdaptCommand, control: JobControl) -> AdaptOutcome:
        """Make a version and record the idempotency of the command in the same transaction."""
        ...


class IdempotentAdaptation:
    """Answers repeated requests with the version that the first one made, even after a restart.

    Two equal requests that reach two processes at the same time may both adapt; the store publishes only the first.
    """

    def __init__(self, store: PublicationStore, adaptation: Adapter, queue: AdaptQueue) -> None:
        self._store = store
        self._adaptation = adaptation
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
            IdempotencyInFlight: an earlier request with the same key is still running.
            IdempotencyMismatch: an earlier request with the same key had another body.
        """
        if command.idempotency is None:
            return self._queued(command, control)
        claim = (command.client, command.idempotency.key)
        self._acquire(claim)
        try:
            earlier = self._store.recall(command.client, command.idempotency)
            future = _replayed(earlier) if earlier else self._queued(command, control)
        except BaseException:
            self._release(claim)
            raise
        future.add_done_callback(lambda _: self._release(claim))
        return future

    def _queued(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        return self._queue.submit(command.client, partial(self._adaptation.run, command, control), control)

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
    published = any(move.alias == LIVE for move in earlier.moves)
    future: Future[AdaptOutcome] = Future()
    future.set_result(AdaptOutcome(version=earlier.version, published=published, live=earlier.live))
    return future
