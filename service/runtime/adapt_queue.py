"""The queue of adaptations: a limited number run at the same time, and clients take turns.

The client whose last turn was longest ago is next, with its oldest request, so a client that sends many or slow
requests does not delay the others by more than one. A client's requests run one after another, because each builds on
the version before it. Admission limits apply before a request is queued here.
"""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from service.errors import RETRY_STOPPING_S, Overloaded
from service.runtime.job_control import JobControl

T = TypeVar("T")

_LAST_STEP_S: Final = 5.0
"""How long `close` waits for a stopped adaptation to reach its next inner step."""


@dataclass(slots=True, eq=False)
class _Job:
    client: str
    work: Callable[[], Any]
    control: JobControl
    result: Future[Any] = field(default_factory=Future)


class AdaptQueue:
    """Runs adaptations from decoding to the stored version.

    Args:
        limit: adaptations that run at the same time. Threads start when they are first needed.
    """

    def __init__(self, limit: int = 1) -> None:
        self._limit = limit
        self._pool = ThreadPoolExecutor(limit, "adapt")
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._running: dict[str, _Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._ended = 0

    def submit(self, client: str, work: Callable[[], T], control: JobControl) -> Future[T]:
        """Queue an adaptation of `client`. Cancelling the future removes it from the queue, until it starts.

        Raises:
            Overloaded: the queue is closed.
        """
        job = _Job(client, work, control)
        with self._changed:
            if self._closed:
                raise _closed()
            self._waiting.setdefault(client, deque()).append(job)
            self._start_jobs()
        job.result.add_done_callback(lambda result: self._drop(job) if result.cancelled() else None)
        return job.result

    def metrics(self) -> dict[str, float]:
        """Return how many adaptations wait, how many run, and how many have ended since the start."""
        with self._changed:
            return {
                "adapt_waiting": sum(map(len, self._waiting.values())),
                "adapt_in_work": len(self._running),
                "adapt_ended_total": self._ended,
            }

    def close(self, within_s: float = 0.0) -> None:
        """Accept no more adaptations and finish those in the queue.

        Adaptations that have not finished `within_s` end with Overloaded and without a version.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._waiting and not self._running, within_s)
            waiting = [job for jobs in self._waiting.values() for job in jobs]
            running = list(self._running.values())
            self._waiting.clear()
        for job in waiting:
            if job.result.set_running_or_notify_cancel():
                job.result.set_exception(_closed())
        for job in running:
            job.control.stop(_closed())
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._running, _LAST_STEP_S)
        self._pool.shutdown(wait=idle)

    def _drop(self, job: _Job) -> None:
        with self._changed:
            jobs = self._waiting.get(job.client, deque())
            if job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._waiting[job.client]
                self._changed.notify_all()

    def _start_jobs(self) -> None:
        """Start waiting jobs while there is room. The lock is held."""
        while len(self._running) < self._limit:
            client = next((client for client in self._waiting if client not in self._running), None)
            if client is None:
                return
            jobs = self._waiting[client]
            job = self._running[client] = jobs.popleft()
            self._waiting.move_to_end(client)
            if not jobs:
                del self._waiting[client]
            self._pool.submit(self._run, job)

    def _run(self, job: _Job) -> None:
        result, error = None, None
        started = job.result.set_running_or_notify_cancel()
        if started:
            result, error = _outcome(job)
        with self._changed:
            del self._running[job.client]
            self._ended += started
            self._start_jobs()
            self._changed.notify_all()
        if error is not None:
            job.result.set_exception(error)
        elif started:
            job.result.set_result(result)


def _outcome(job: _Job) -> tuple[Any, BaseException | None]:
    try:
        job.control.start()
        return job.work(), None
    except BaseException as error:  # noqa: BLE001 - it becomes the result of the job's future
        traceback.clear_frames(error.__traceback__)  # frames hold tensors, and memory may be what ran out
        return None, error


def _closed() -> Overloaded:
    return Overloaded(f"the service is stopping; try again in {RETRY_STOPPING_S} s", retry_after_s=RETRY_STOPPING_S)
