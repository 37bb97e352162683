"""Use case: adapt in turn, and once however often the request comes. It knows keys and answers, not how one adapts."""

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


class Recalls(Protocol):
    """The part of a store that remembers which request made which version."""

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """What was published under that key, or None."""
        ...


class Adapts(Protocol):
    """Whatever makes a version."""

    def run(self, command: AdaptCommand, ticket: JobControl) -> AdaptOutcome:
        """Make a version and record the command's idempotency with it, in one transaction."""
        ...


class IdempotentAdaptation:
    """Answers a repeated request from the record of the first, also after a restart.

    Two equal requests at the same time in two processes may both adapt; the store then publishes the first alone.
    """

    def __init__(self, store: Recalls, adaptation: Adapts, queue: AdaptQueue) -> None:
        self._store = store
        self._adaptation = adaptation
        self._queue = queue
        self._lock = threading.Lock()
        self._in_flight: set[tuple[str, str]] = set()

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """As `submit`, and wait for it."""
        answer, ended = self.submit(command, JobControl()), threading.Event()
        answer.add_done_callback(lambda _: ended.set())  # the last of them: the same request may then be sent again
        ended.wait()
        return answer.result()

    def submit(self, command: AdaptCommand, ticket: JobControl) -> Future[AdaptOutcome]:
        """Adapt when it is this client's turn, or return what the first request with the same key and body got.

        Blocks for a look at the records. Cancelling what is returned takes the request back, until it has begun.

        Raises:
            Overloaded: the service is stopping.
            IdempotencyInFlight: the first one is still running.
            IdempotencyMismatch: the key came before with another body.
        """
        if command.idempotency is None:
            return self._queued(command, ticket)
        claim = (command.client, command.idempotency.key)
        self._take(claim)
        try:
            earlier = self._store.recall(command.client, command.idempotency)
            answer = _given(earlier) if earlier else self._queued(command, ticket)
        except BaseException:
            self._give_back(claim)
            raise
        answer.add_done_callback(lambda _: self._give_back(claim))
        return answer

    def _queued(self, command: AdaptCommand, ticket: JobControl) -> Future[AdaptOutcome]:
        return self._queue.submit(command.client, partial(self._adaptation.run, command, ticket), ticket)

    def _take(self, claim: tuple[str, str]) -> None:
        with self._lock:
            if claim in self._in_flight:
                raise IdempotencyInFlight(
                    f"a request of client {claim[0]!r} with Idempotency-Key {claim[1]!r} is still running; "
                    "wait for its answer, or ask again in a moment"
                )
            self._in_flight.add(claim)

    def _give_back(self, claim: tuple[str, str]) -> None:
        with self._lock:
            self._in_flight.discard(claim)


def _given(earlier: Publication) -> Future[AdaptOutcome]:
    answer: Future[AdaptOutcome] = Future()
    answer.set_result(_replay(earlier))
    return answer


def _replay(earlier: Publication) -> AdaptOutcome:
    published = any(move.alias == LIVE for move in earlier.moves)
    return AdaptOutcome(version=earlier.version, published=published, live=earlier.live)
