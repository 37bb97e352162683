"""Use case: adapt once, however often the request comes. It knows keys and answers, not how adapting is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from service.adaptation import AdaptCommand, AdaptOutcome
from service.domain import LIVE, Idempotency, Publication
from service.errors import IdempotencyInFlight


class Recalls(Protocol):
    """The part of a store that remembers which request made which version."""

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """What was published under that key, or None."""
        ...


class Adapts(Protocol):
    """Whatever makes a version."""

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """Make a version and record the command's idempotency with it, in one transaction."""
        ...


class AdaptOnce:
    """Answers a repeated request from the record of the first, also after a restart.

    Two equal requests at the same time in two processes may both adapt; the store then publishes the first alone.
    """

    def __init__(self, store: Recalls, adaptation: Adapts) -> None:
        self._store = store
        self._adaptation = adaptation
        self._lock = threading.Lock()
        self._in_flight: set[tuple[str, str]] = set()

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """Adapt, or return what the first request with the same key and body got.

        Raises:
            IdempotencyInFlight: the first one is still running.
            IdempotencyMismatch: the key came before with another body.
        """
        if command.idempotency is None:
            return self._adaptation.run(command)
        with self._alone(command.client, command.idempotency):
            earlier = self._store.recall(command.client, command.idempotency)
            return self._adaptation.run(command) if earlier is None else _replay(earlier)

    @contextmanager
    def _alone(self, client: str, idempotency: Idempotency) -> Iterator[None]:
        claim = (client, idempotency.key)
        with self._lock:
            if claim in self._in_flight:
                raise IdempotencyInFlight(
                    f"a request of client {client!r} with Idempotency-Key {idempotency.key!r} is still running; "
                    "wait for its answer, or ask again in a moment"
                )
            self._in_flight.add(claim)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight.discard(claim)


def _replay(earlier: Publication) -> AdaptOutcome:
    published = any(move.alias == LIVE for move in earlier.moves)
    return AdaptOutcome(version=earlier.version, published=published, live=earlier.live)
