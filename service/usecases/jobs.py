"""Adaptations that nobody waits for on the line: looked up by a number that cannot be guessed, followed, cancelled.

They live in the process that accepted them and end with it; of those that are over the newest are remembered for a
while. Everything here belongs to one event loop, but for `Job.changed`. It knows no HTTP.
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
from service.runtime.job_control import JobControl
from service.usecases.adapt import AdaptOutcome

State = Literal["waiting", "running", "done", "failed", "cancelled"]

KEPT_S: Final = 900.0
_KEPT: Final = 256


@dataclass(eq=False)
class Job:
    """One adaptation.

    Attributes:
        number: names it; 128 random bits.
        client: of the version that it makes.
        ticket: how far it is.
        work: what comes of it.
        created_at: UTC.
        ended_at_s: monotonic seconds, or None while it is not over.
    """

    client: str
    ticket: JobControl
    work: Future[AdaptOutcome]
    number: str = field(default_factory=lambda: secrets.token_hex(16))
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at_s: float | None = None
    _cancelled: bool = False
    _watchers: list[Callable[[], object]] = field(default_factory=list)

    @property
    def state(self) -> State:
        """What it is doing; a cancelled one makes no version, though its last inner step may still be running."""
        if self._cancelled or self.work.cancelled():
            return "cancelled"
        if self.work.done():
            return "failed" if self.work.exception() else "done"
        return "running" if self.work.running() else "waiting"

    @property
    def outcome(self) -> AdaptOutcome | None:
        """The version that it made, when it is done."""
        return self.work.result() if self.state == "done" else None

    @property
    def error(self) -> Exception | None:
        """What it failed with."""
        error = self.work.exception() if self.state == "failed" else None
        return error if error is None or isinstance(error, Exception) else RuntimeError("ended from outside")

    def cancel(self) -> None:
        """End it, unless it is over or its version is being recorded: then it stays as it is."""
        if not self.work.done() and self.ticket.stop(JobCancelled(f"job {self.number} was cancelled")):
            self._cancelled = True
            self.work.cancel()
            self.changed()

    def changed(self) -> None:
        """Wake whoever follows; may be called in any thread."""
        for wake in tuple(self._watchers):
            wake()

    @contextmanager
    def followed(self) -> Iterator[asyncio.Event]:
        """An event that is set after each change, for the length of the block."""
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

    def add(self, client: str, ticket: JobControl, work: Future[AdaptOutcome]) -> Job:
        """Take an adaptation that was accepted."""
        job = Job(client, ticket, work)
        ticket.on_change(job.changed)
        self._forget()
        self._jobs[job.number] = job
        return job

    def ended(self, job: Job) -> None:
        """Note that it is over, and tell who follows."""
        job.ended_at_s = self._clock()
        job.changed()

    def get(self, number: str, can_access: Callable[[str], bool]) -> Job:
        """The job of that number.

        Args:
            number: as it was given.
            can_access: whether a client is one of the caller's; the jobs of others are not there.

        Raises:
            UnknownJob: there is none, or it is long over.
        """
        self._forget()
        job = self._jobs.get(number)
        if job is None or not can_access(job.client):
            raise UnknownJob(
                f"there is no job {number[:64]!r} in this process; jobs end with their process and are forgotten "
                f"{KEPT_S / 60:g} min after their end: look at the client's versions, or send the adaptation again "
                "with the same Idempotency-Key"
            )
        return job

    def readings(self) -> dict[str, float]:
        """How many are not over."""
        return {"adapt_jobs": sum(job.ended_at_s is None for job in self._jobs.values())}

    def _forget(self) -> None:
        over = [(number, job.ended_at_s) for number, job in self._jobs.items() if job.ended_at_s is not None]
        over.sort(key=lambda own: own[1])
        for place, (number, ended_at_s) in enumerate(over):
            if place < len(over) - _KEPT or self._clock() - ended_at_s > KEPT_S:
                del self._jobs[number]
