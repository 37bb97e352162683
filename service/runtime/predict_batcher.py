"""Gathers what waits into batches: a free thread takes the jobs there are, up to a size, and works on them together.

Unless it is told to, nothing waits for company: a job that comes to an idle batcher is a batch by itself, and batches
grow as the work falls behind. Every job gets its own answer or its own error, whatever happens to the others. How many
may wait is decided before a job comes here, and what the jobs are is not known.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.errors import Overloaded

Job = TypeVar("Job")
Answer = TypeVar("Answer")

Work = Callable[[Sequence[Job]], Iterable[tuple[int, Answer | BaseException]]]

_RETRY_S = 1


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Job, Answer]):
    job: Job
    size: int
    answer: Future[Answer] = field(default_factory=Future)


class PredictBatcher(Generic[Job, Answer]):
    """Threads that work on batches of jobs.

    Args:
        work: answers jobs, in any order and each as soon as it can: the job's place, with a result or the error that
            it ends with. What it raises itself is nobody's own: after that each job not yet answered is tried alone.
        most: sizes that a batch may add up to; a larger job goes alone.
        threads: batches at the same time.
        gather_s: how long the first job of a batch waits for others, unless the batch is full before.
    """

    def __init__(self, work: Work[Job, Answer], most: int, threads: int, gather_s: float = 0.0) -> None:
        self._work = work
        self._most = most
        self._gather_s = gather_s
        self._waiting: deque[_Waiting[Job, Answer]] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._batches = self._jobs = 0
        self._threads = [
            threading.Thread(target=self._take_turns, name=f"predict-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, size: int = 1) -> Future[Answer]:
        """Queue a job. Cancelling what is returned takes it out again, until work on it begins.

        Raises:
            Overloaded: the batcher has been closed.
        """
        waiting: _Waiting[Job, Answer] = _Waiting(job, size)
        with self._change:
            if self._closed:
                raise _closed()
            self._waiting.append(waiting)
            self._change.notify()
        waiting.answer.add_done_callback(lambda answer: self._drop(waiting) if answer.cancelled() else None)
        return waiting.answer

    def metrics(self) -> dict[str, float]:
        """Counters since the start, and how many wait now."""
        with self._change:
            return {
                "predict_batches_total": self._batches,
                "predict_batched_requests_total": self._jobs,
                "predict_waiting": len(self._waiting),
            }

    def close(self) -> None:
        """Work on nothing more: the batches at hand are ended, whoever still waits gets Overloaded."""
        with self._change:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._change.notify_all()
        for waiting in left:
            if waiting.answer.set_running_or_notify_cancel():
                waiting.answer.set_exception(_closed())
        for thread in self._threads:
            thread.join()

    def _drop(self, waiting: _Waiting[Job, Answer]) -> None:
        """Let go of what nobody waits for, though no thread may come by for long."""
        with self._change:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def _take_turns(self) -> None:
        while batch := self._next():
            self._answer([waiting for waiting in batch if waiting.answer.set_running_or_notify_cancel()])

    def _next(self) -> list[_Waiting[Job, Answer]]:
        """The next batch, in the order in which jobs came; empty when there will be none."""
        with self._change:
            while not self._waiting and not self._closed:
                self._change.wait()
                if self._gather_s:
                    self._gather()
            batch: list[_Waiting[Job, Answer]] = []
            size = 0
            while self._waiting and (not batch or size + self._waiting[0].size <= self._most):
                batch.append(self._waiting.popleft())
                size += batch[-1].size
            self._batches += bool(batch)
            self._jobs += len(batch)
            return batch

    def _gather(self) -> None:
        until = time.monotonic() + self._gather_s
        while not self._closed and sum(waiting.size for waiting in self._waiting) < self._most:
            if not self._change.wait(until - time.monotonic()):
                return

    def _answer(self, begun: Sequence[_Waiting[Job, Answer]]) -> None:
        left = dict(enumerate(begun))
        try:
            for place, answer in self._work([waiting.job for waiting in begun]):
                _deliver(left.pop(place), answer)
            if left:
                raise RuntimeError(f"{len(left)} of {len(begun)} jobs were given no answer")
        except BaseException as error:  # noqa: BLE001 - whoever waits is told; this thread has to go on
            if len(begun) == 1:
                for waiting in left.values():
                    _deliver(waiting, error)
                return
            for waiting in left.values():
                self._answer([waiting])


def _deliver(waiting: _Waiting[Job, Answer], answer: Answer | BaseException) -> None:
    if isinstance(answer, BaseException):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)


def _closed() -> Overloaded:
    return Overloaded(f"the service is stopping; try again in {_RETRY_S} s", retry_after_s=_RETRY_S)
