"""Background jobs: adaptations that can be looked up, followed and cancelled by their id.

Jobs belong to the process that accepted them and end with it. The newest of the finished ones are kept for a while.
Everything here runs on one event loop, except `Job.notify`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from service.errors import JobCancelled, UnknownJob
from service.runtime.adapt_queue import JobControl
from service.usecases.adapt_command import AdaptOutcome

State = Literal["waiting", "running", "done", "failed", "cancelled"]

KEPT_S: Final = 900.0
"""How long a job is kept after it has ended."""

MAX_KEPT: Final = 256
"""Jobs kept after they have ended; the oldest are removed first."""


@dataclass(eq=False)
class Job:
    """One adaptation in the background.

    Attributes:
        client: client of the version that it makes.
        control: reports its progress and can stop it.
        future: its outcome.
        id: 128 random bits.
        created_at: UTC.
        ended_at_s: monotonic seconds, or None while it runs.
    """

    client: str
    control: JobControl
    future: Future[AdaptOutcome]
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at_s: float | None = None
    _cancelled: bool = False
    _watchers: list[Callable[[], object]] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The current state. A cancelled job makes no version, though its last inner step may still be running."""
        if self._cancelled or self.future.cancelled():
            return "cancelled"
        if self.future.done():
            return "failed" if self.future.exception() else "done"
        return "running" if self.future.running() else "waiting"

    @property
    def outcome(self) -> AdaptOutcome | None:
        """The outcome, if the job is done."""
        return self.future.result() if self.state == "done" else None

    @property
    def error(self) -> Exception | None:
        """The error, if the job failed."""
        error = self.future.exception() if self.state == "failed" else None
        return error if error is None or isinstance(error, Exception) else RuntimeError("the job was interrupted")

    def cancel(self) -> None:
        """Cancel the job, unless it has ended or its version is being stored."""
        if not self.future.done() and self.control.stop(JobCancelled(f"job {self.id} was cancelled")):
            self._cancelled = True
            self.future.cancel()
            self.notify()

    def notify(self) -> None:
        """Wake the followers. Thread-safe."""
        for wake in tuple(self._watchers):
            wake()

    @contextmanager
    def followed(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set after each change."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not event.is_set() and not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

        self._watchers.append(wake)
        try:
            yield event
        finally:
            self._watchers.remove(wake)


class Jobs:
    """The jobs of this process.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[str, Job] = {}

    def add(self, client: str, control: JobControl, future: Future[AdaptOutcome]) -> Job:
        """Add an adaptation that was accepted."""
        job = Job(client, control, future)
        control.on_change(job.notify)
        self._forget()
        self._jobs[job.id] = job
        return job

    def ended(self, job: Job) -> None:
        """Record that the job has ended."""
        job.ended_at_s = self._clock()
        job.notify()

    def get(self, job_id: str, can_access: Callable[[str], bool]) -> Job:
        """Return a job.

        Args:
            job_id: the id from the request.
            can_access: tells whether the caller can access a client; jobs of other clients are not found.

        Raises:
            UnknownJob: there is no such job, or it ended long ago.
        """
        self._forget()
        job = self._jobs.get(job_id)
        if job is None or not can_access(job.client):
            raise UnknownJob(
                f"there is no job {job_id[:64]!r} in this process; jobs end with their process, and are removed "
                f"{KEPT_S / 60:g} min after they ended: list the versions of the client, or send the request again "
                "with the same Idempotency-Key"
            )
        return job

    def metrics(self) -> dict[str, float]:
        """Number of jobs that have not ended."""
        return {"adapt_jobs": sum(job.ended_at_s is None for job in self._jobs.values())}

    def _forget(self) -> None:
        ended = [(job_id, job.ended_at_s) for job_id, job in self._jobs.items() if job.ended_at_s is not None]
        ended.sort(key=lambda entry: entry[1])
        for index, (job_id, ended_at_s) in enumerate(ended):
            if index < len(ended) - MAX_KEPT or self._clock() - ended_at_s > KEPT_S:
                del self._jobs[job_id]
