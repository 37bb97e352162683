"""The line before the device: who adapts next. So many adaptations are in work, and of one client never more than one.

Clients take turns: the one whose turn was longest ago comes next, with the oldest of its requests. A client that sends
many requests, or slow ones, therefore holds one place and not the line. Of one client's requests, each builds on the
version of the one before, so none of them is made twice. How many may wait is decided before a request comes here.
"""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from service.errors import Overloaded
from service.runtime.job_control import JobControl

T = TypeVar("T")

_RETRY_S: Final = 1
_LAST_STEP_S: Final = 5.0
"""How long an adaptation that was told to stop may take to notice, when the queue is closed."""


@dataclass(slots=True, eq=False)
class _Job:
    client: str
    work: Callable[[], Any]
    ticket: JobControl
    answer: Future[Any] = field(default_factory=Future)


class AdaptQueue:
    """Threads that each see one adaptation through, from its images to its version.

    Args:
        running: adaptations in work at the same time. Threads are started as they are needed.
    """

    def __init__(self, running: int = 1) -> None:
        self._running = running
        self._lines: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._in_work: dict[str, _Job] = {}
        self._change = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._free = 0
        self._closed = self._ended = False
        self._count = 0

    def submit(self, client: str, work: Callable[[], T], ticket: JobControl) -> Future[T]:
        """Queue an adaptation of `client`. Cancelling what is returned takes it out again, until work on it begins.

        Raises:
            Overloaded: the queue has been closed.
        """
        job = _Job(client, work, ticket)
        with self._change:
            if self._closed:
                raise _closed()
            if self._waiting() >= self._free and len(self._threads) < self._running:
                thread = threading.Thread(target=self._take_turns, name="adapt", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._lines.setdefault(client, deque()).append(job)
            self._change.notify_all()
        job.answer.add_done_callback(lambda answer: self._drop(job) if answer.cancelled() else None)
        return job.answer

    def metrics(self) -> dict[str, float]:
        """How many wait, how many are in work, and how many ended since the start."""
        with self._change:
            return {
                "adapt_waiting": self._waiting(),
                "adapt_in_work": len(self._in_work),
                "adapt_ended_total": self._count,
            }

    def close(self, within_s: float = 0.0) -> None:
        """Take no more, and end what was accepted; what is not done `within_s` ends with Overloaded, and no version."""
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: not self._lines and not self._in_work, within_s)
            self._ended = True
            left = [job for line in self._lines.values() for job in line]
            begun = list(self._in_work.values())
            self._lines.clear()
            self._change.notify_all()
        for job in left:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(_closed())
        for job in begun:
            job.ticket.stop(_closed())
        for thread in self._threads:
            thread.join(_LAST_STEP_S)

    def _waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    def _drop(self, job: _Job) -> None:
        with self._change:
            line = self._lines.get(job.client, deque())
            if job in line:
                line.remove(job)
                if not line:
                    del self._lines[job.client]
                self._change.notify_all()

    def _take_turns(self) -> None:
        while (job := self._next()) is not None:
            answer, error = None, None
            begun = job.answer.set_running_or_notify_cancel()
            if begun:
                answer, error = _outcome(job)
            with self._change:
                del self._in_work[job.client]
                self._count += begun
                self._change.notify_all()
            if error is not None:
                job.answer.set_exception(error)
            elif begun:
                job.answer.set_result(answer)
            del job, answer, error  # images and traces are not kept until the next one comes

    def _next(self) -> _Job | None:
        """The next adaptation, when it may begin; None when there will be none."""
        with self._change:
            while not self._ended:
                client = next((client for client in self._lines if client not in self._in_work), None)
                if client is not None:
                    return self._begin(client)
                self._free += 1
                self._change.wait()
                self._free -= 1
            return None

    def _begin(self, client: str) -> _Job:
        line = self._lines[client]
        job = self._in_work[client] = line.popleft()
        self._lines.move_to_end(client)
        if not line:
            del self._lines[client]
        return job


def _outcome(job: _Job) -> tuple[Any, BaseException | None]:
    try:
        job.ticket.begin()
        return job.work(), None
    except BaseException as error:  # noqa: BLE001 - whoever waits is told; this thread has to go on
        traceback.clear_frames(error.__traceback__)  # its frames hold tensors, and may be why memory was used up
        return None, error


def _closed() -> Overloaded:
    return Overloaded(f"the service is stopping; try again in {_RETRY_S} s", retry_after_s=_RETRY_S)
