"""Queues adaptations, and answers a request that is repeated with the same Idempotency-Key from the first one."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from service.domain.job import new_job_id
from service.domain.version import Idempotency, Publication
from service.runtime.adapt_queue import AdaptQueue, JobControl
from service.usecases.adapt import Adaptation
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from service.usecases.jobs import Jobs

Recall = Callable[[str, Idempotency], Publication | None]


class Adapting(abc.ABC):
    """Makes versions, in this process or in another one. Thread-safe."""

    @abc.abstractmethod
    def submit(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        """Queue the adaptation, or return the outcome of an earlier request with the same key and body.

        Blocks briefly to look up the key. Cancelling the future withdraws the request until it starts. If the command
        names a job, the job exists afterwards.

        Raises:
            Overloaded: the service is stopping.
            Those of `Adaptation.accept`.
            IdempotencyInFlight: an earlier request with the same key is still running, in this or another process.
            IdempotencyMismatch: an earlier request with the same key had another body.
            StoreUnavailable: the key or the job cannot be recorded.
        """

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """Adapt and return the outcome. Blocks; see `submit` for the errors."""
        future, released = self.submit(command, JobControl()), threading.Event()
        future.add_done_callback(lambda _: released.set())  # runs last: then the same request may be sent again
        released.wait()
        return future.result()


class IdempotentAdaptation(Adapting):
    """Queues adaptations, and answers repeated requests with the version that the first one made, even after a restart.

    While a request with a key runs, it is a job in the catalog, so every process of the store knows that it runs.

    Args:
        adaptation: makes the versions.
        recall: see `Catalog.recall`.
        queue: runs the adaptations.
        jobs: holds the requests with a key, and those that run as jobs.
    """

    def __init__(self, adaptation: Adaptation, recall: Recall, queue: AdaptQueue, jobs: Jobs) -> None:
        self._adaptation = adaptation
        self._recall = recall
        self._queue = queue
        self._jobs = jobs

    def submit(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        """See `Adapting.submit`. If the command names a job, the caller ends it with the outcome."""
        key = command.idempotency
        earlier = None if key is None else self._recall(command.client, key)
        job_id = command.job or (None if key is None or earlier is not None else new_job_id())
        if job_id is None:
            return self._queued(command, control) if earlier is None else _replayed(earlier)
        followed = command.job is not None
        in_flight = None if key is None or earlier is not None else key.key
        self._jobs.add(job_id, command.client, in_flight, control, followed=followed)
        try:
            if key is not None and earlier is None:  # the first request may have ended before its key was held again
                earlier = self._recall(command.client, key)
            future = self._queued(replace(command, job=job_id), control) if earlier is None else _replayed(earlier)
        except BaseException:
            self._jobs.remove(job_id)
            raise
        self._jobs.started(job_id, future)
        if not followed:
            future.add_done_callback(partial(self._jobs.end, job_id))
        return future

    def _queued(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        accepted = self._adaptation.accept(command, control)
        work = partial(self._adaptation.run, accepted, control)
        return self._queue.submit(command.client, work, control, accepted.decoding.images)


def _replayed(earlier: Publication) -> Future[AdaptOutcome]:
    future: Future[AdaptOutcome] = Future()
    future.set_result(AdaptOutcome.of(earlier))
    return future
