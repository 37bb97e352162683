"""Dynamic batching: a free thread takes the jobs that wait, up to a size, and works on them as one batch.

By default no job is delayed to fill a batch: a job that arrives at an idle batcher is a batch by itself, and batches
grow under load. Callers share the batches equally. Every job gets its own result or its own error. Admission limits
apply before a job is queued here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service.errors import RETRY_STOPPING_S, Overloaded
from service.runtime.fair_queue import FairQueue

Job = TypeVar("Job")
Result = TypeVar("Result")

Work = Callable[[Sequence[Job]], Iterable[tuple[int, Result | BaseException | Future[Result]]]]


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Job, Result]):
    job: Job
    size: int
    caller: str
    future: Future[Result] = field(default_factory=Future)


class PredictBatcher(Generic[Job, Result]):
    """Threads that work on batches of jobs.

    Args:
        work: yields a job's index in the batch with its result or error, in any order and as soon as each is known, or
            with a future of it, so that the batch need not wait. An error that `work` itself raises belongs to no
            single job; the jobs without a result are then retried alone.
        max_size: total size of a batch. A larger job runs alone.
        threads: batches that run at the same time.
        gather_s: how long the first job of a batch waits for others, unless the batch is full earlier.
    """

    def __init__(self, work: Work[Job, Result], max_size: int, threads: int, gather_s: float = 0.0) -> None:
        self._work = work
        self._max_size = max_size
        self._gather_s = gather_s
        self._waiting: FairQueue[_Waiting[Job, Result]] = FairQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._batches = self._jobs = 0
        self._threads = [
            threading.Thread(target=self._run_batches, name=f"predict-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, size: int = 1, caller: str = "", after: Future[Any] | None = None) -> Future[Result]:
        """Queue a job. Cancelling the future removes the job from the queue, until it starts.

        Args:
            job: what `work` gets.
            size: counts towards the size of a batch and the caller's share.
            caller: who sent it.
            after: what the job needs; it is queued when this has ended, in whichever way, and cancelled with the job.

        Raises:
            Overloaded: the batcher is closed.
        """
        if self._closed:
            raise _closed()
        waiting: _Waiting[Job, Result] = _Waiting(job, size, caller)
        if after is None:
            self._push(waiting)
        else:
            after.add_done_callback(lambda _: self._push(waiting))
        waiting.future.add_done_callback(lambda future: self._drop(waiting, after) if future.cancelled() else None)
        return waiting.future

    def metrics(self) -> dict[str, float]:
        """Return counters since the start, and how many jobs wait now."""
        with self._changed:
            return {
                "predict_batches_total": self._batches,
                "predict_batched_requests_total": self._jobs,
                "predict_waiting": len(self._waiting),
            }

    def close(self) -> None:
        """Finish the running batches and stop the threads. Jobs that still wait end with Overloaded."""
        with self._changed:
            self._closed = True
            waiting = self._waiting.clear()
            self._changed.notify_all()
        for one in waiting:
            _reject(one)
        for thread in self._threads:
            thread.join()

    def _push(self, waiting: _Waiting[Job, Result]) -> None:
        with self._changed:
            if not self._closed and not waiting.future.cancelled():
                self._waiting.push(waiting, waiting.caller, waiting.size)
                self._changed.notify()
                return
        _reject(waiting)

    def _drop(self, waiting: _Waiting[Job, Result], after: Future[Any] | None) -> None:
        """Release a cancelled job at once, even if no thread becomes free for a long time."""
        with self._changed:
            self._waiting.discard(waiting)
        if after is not None:
            after.cancel()

    def _run_batches(self) -> None:
        while batch := self._next_batch():
            self._run([waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()])

    def _next_batch(self) -> list[_Waiting[Job, Result]]:
        """Wait for the next batch; empty once the batcher is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
                if self._gather_s:
                    self._gather()
            batch: list[_Waiting[Job, Result]] = []
            size = 0
            for waiting in self._waiting:
                if batch and size + waiting.size > self._max_size:
                    break
                self._waiting.take(waiting)
                batch.append(waiting)
                size += waiting.size
            self._batches += bool(batch)
            self._jobs += len(batch)
            return batch

    def _gather(self) -> None:
        deadline = time.monotonic() + self._gather_s
        while not self._closed and sum(waiting.size for waiting in self._waiting) < self._max_size:
            if not self._changed.wait(deadline - time.monotonic()):
                return

    def _run(self, batch: Sequence[_Waiting[Job, Result]]) -> None:
        unanswered = dict(enumerate(batch))
        try:
            for index, result in self._work([waiting.job for waiting in batch]):
                _deliver(unanswered.pop(index), result)
            if unanswered:
                raise RuntimeError(f"{len(unanswered)} of {len(batch)} jobs got no result")
        except BaseException as error:  # noqa: BLE001 - it becomes the result of the jobs' futures
            if len(batch) == 1:
                for waiting in unanswered.values():
                    _deliver(waiting, error)
                return
            for waiting in unanswered.values():
                self._run([waiting])


def _deliver(waiting: _Waiting[Job, Result], result: Result | BaseException | Future[Result]) -> None:
    if isinstance(result, Future):
        result.add_done_callback(lambda done: _deliver(waiting, done.exception() or done.result()))
    elif isinstance(result, BaseException):
        waiting.future.set_exception(result)
    else:
        waiting.future.set_result(result)


def _reject(waiting: _Waiting[Job, Result]) -> None:
    if waiting.future.set_running_or_notify_cancel():
        waiting.future.set_exception(_closed())


def _closed() -> Overloaded:
    return Overloaded(f"the service is stopping; try again in {RETRY_STOPPING_S} s", retry_after_s=RETRY_STOPPING_S)
