"""The queue of adaptations, and the control of each: its progress, and a way to stop it before its version is stored.

A limited number of adaptations run at the same time, and clients take turns.

The client whose last turn was longest ago is next, with its oldest request, so a client that sends many or slow
requests does not delay the others by more than one. A client's requests run one after another, because each builds on
the version before it. A request whose images are not decoded yet does not take part. Admission limits apply before a
request is queued here.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from service import tracing
from service.domain.job import Progress, Stage
from service.errors import RETRY_BUSY_S, RETRY_STOPPING_S, DeadlinePassed, Overloaded

T = TypeVar("T")

_LAST_STEP_S: Final = 5.0
"""How long `close` waits for a stopped adaptation to reach its next inner step."""


class JobControl:
    """Reports the progress of one adaptation and stops it on request or at its deadline. Thread-safe.

    Attributes:
        limit_s: the time limit in seconds.
        include_waiting: whether the time in the queue counts.
        first: the preliminary result before the inner steps, if the request asked for one.

    Args:
        limit_s: time limit in seconds, until the version is stored.
        include_waiting: whether the time in the queue counts; if not, the limit applies from `start`.
        clock: monotonic seconds.
    """

    def __init__(
        self, limit_s: float = math.inf, *, include_waiting: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit_s = limit_s
        self.include_waiting = include_waiting
        self._clock = clock
        self._deadline = clock() + limit_s if include_waiting else None
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._committing = False
        self._progress = Progress()
        self._on_change: Callable[[], object] | None = None
        self._end_elsewhere: Callable[[], bool] = lambda: True
        self.first: Any = None

    @property
    def progress(self) -> Progress:
        """The current progress."""
        return self._progress

    @property
    def observed(self) -> bool:
        """Whether a callback is registered."""
        return self._on_change is not None

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` after each change, in the thread that makes the change. It must return quickly."""
        self._on_change = callback

    @property
    def remaining_s(self) -> float:
        """Seconds that are left; the whole limit if the clock does not run yet."""
        return self.limit_s if self._deadline is None else max(0.0, self._deadline - self._clock())

    def on_stop(self, end_elsewhere: Callable[[], bool]) -> None:
        """Have `stop` call a function for an adaptation in another process. It may block.

        Args:
            end_elsewhere: ends the adaptation; returns False if it is too late.
        """
        self._end_elsewhere = end_elsewhere

    def stop(self, error: Exception) -> bool:
        """Make the adaptation end with `error` at its next inner step.

        Returns:
            False if it is too late, because the version is being stored.
        """
        if not self._end_elsewhere():
            return False
        with self._lock:
            if self._committing:
                return False
            self._error = self._error or error
            return True

    def check(self) -> None:
        """Return if the adaptation may go on.

        Raises:
            DeadlinePassed: the time limit has passed.
            The error that `stop` was called with.
        """
        with self._lock:
            self._check()

    def start(self) -> None:
        """Start the clock if the time in the queue does not count. Raises as `check` does."""
        if self._deadline is None:
            self._deadline = self._clock() + self.limit_s
        self.check()

    def enter(self, stage: Stage) -> None:
        """Report the next stage. Raises as `check` does."""
        self.check()
        self._update(lambda progress: replace(progress, stage=stage))

    def plan(self, steps: int) -> None:
        """Report the total number of inner steps, and that none is done."""
        self._update(lambda progress: replace(progress, steps=steps, steps_done=0, loss=None))

    def step(self, loss: float | None = None) -> None:
        """Report an inner step, with its loss if it is the version's own. Raises as `check` does."""
        self.check()
        self._update(
            lambda progress: replace(
                progress, steps_done=progress.steps_done + 1, loss=progress.loss if loss is None else loss
            )
        )

    def publish_first(self, first: object) -> None:
        """Report the preliminary result. The adaptation goes on, so it can be stopped again."""
        self.first = first
        with self._lock:
            self._committing = False
        self._update(lambda progress: progress)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """From here on the adaptation can no longer be stopped, unless the block fails. Raises as `check` does."""
        with self._lock:
            self._check()
            self._committing = True
        try:
            yield
        except BaseException:
            with self._lock:
                self._committing = False
            raise

    def _check(self) -> None:
        if self._error is None and self._deadline is not None and self._clock() > self._deadline:
            self._error = DeadlinePassed(
                f"the adaptation was stopped after {self.limit_s:g} s, and no version was made; try again in "
                f"{RETRY_BUSY_S} s, with fewer steps or samples (ANOLE_ADAPT_S sets the limit)",
                RETRY_BUSY_S,
            )
        if self._error is not None:
            raise self._error

    def _update(self, change: Callable[[Progress], Progress]) -> None:
        with self._lock:
            self._progress = change(self._progress)
        if self._on_change is not None:
            self._on_change()


@dataclass(slots=True, eq=False)
class _Job:
    client: str
    work: Callable[[], Any]
    control: JobControl
    context: Context = field(default_factory=copy_context)  # who asks, for the audit log and log lines
    result: Future[Any] = field(default_factory=Future)
    waiting_since_s: float = 0.0


class AdaptQueue:
    """Runs adaptations from decoding to the stored version.

    Args:
        limit: adaptations that run at the same time. Threads start when they are first needed.
    """

    def __init__(self, limit: int = 1) -> None:
        self._limit = limit
        self._pool = ThreadPoolExecutor(limit, "adapt")
        self._decoding: dict[_Job, Future[Any]] = {}
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._running: dict[str, _Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._ended = 0

    def submit(
        self, client: str, work: Callable[[], T], control: JobControl, after: Future[Any] | None = None
    ) -> Future[T]:
        """Queue an adaptation of `client`. Cancelling the future removes it from the queue, until it starts.

        Args:
            client: client name.
            work: makes the version.
            control: of the adaptation.
            after: what `work` needs; the adaptation waits for its turn when this has ended, in whichever way.

        Raises:
            Overloaded: the queue is closed.
        """
        job, ready = _Job(client, work, control), after or _ended()
        with self._changed:
            if self._closed:
                raise _closed()
            self._decoding[job] = ready
        ready.add_done_callback(lambda _: self._push(job))
        job.result.add_done_callback(lambda result: self._drop(job) if result.cancelled() else None)
        return job.result

    def metrics(self) -> dict[str, float]:
        """Return how many adaptations wait, how many run, and how many have ended since the start."""
        with self._changed:
            return {
                "adapt_waiting": len(self._decoding) + sum(map(len, self._waiting.values())),
                "adapt_in_work": len(self._running),
                "adapt_ended_total": self._ended,
            }

    def close(self, within_s: float = 0.0) -> None:
        """Accept no more adaptations and finish those in the queue.

        Adaptations that have not finished `within_s` end with Overloaded and without a version.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not (self._decoding or self._waiting or self._running), within_s)
            waiting = [*self._decoding, *(job for jobs in self._waiting.values() for job in jobs)]
            needed, running = list(self._decoding.values()), list(self._running.values())
            self._decoding.clear()
            self._waiting.clear()
        for after in needed:
            after.cancel()
        for job in waiting:
            if job.result.set_running_or_notify_cancel():
                job.result.set_exception(_closed())
        for job in running:
            job.control.stop(_closed())
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._running, _LAST_STEP_S)
        self._pool.shutdown(wait=idle)

    def _push(self, job: _Job) -> None:
        """Let a job wait for its turn, unless it was cancelled or the queue was closed in the meantime."""
        with self._changed:
            if self._decoding.pop(job, None) is not None:
                job.waiting_since_s = time.monotonic()
                self._waiting.setdefault(job.client, deque()).append(job)
                self._start_jobs()
            self._changed.notify_all()

    def _drop(self, job: _Job) -> None:
        with self._changed:
            after = self._decoding.pop(job, None)
            jobs = self._waiting.get(job.client, deque())
            if job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._waiting[job.client]
            self._changed.notify_all()
        if after is not None:
            after.cancel()

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
        return job.context.run(_work, job), None
    except BaseException as error:  # noqa: BLE001 - it becomes the result of the job's future
        traceback.clear_frames(error.__traceback__)  # frames hold tensors, and memory may be what ran out
        return None, error


def _work(job: _Job) -> Any:
    tracing.record("queue", job.waiting_since_s)
    return job.work()


def _ended() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(None)
    return future


def _closed() -> Overloaded:
    return Overloaded(f"the service is stopping; try again in {RETRY_STOPPING_S} s", retry_after_s=RETRY_STOPPING_S)
