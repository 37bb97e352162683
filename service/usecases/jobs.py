"""Background jobs: adaptations that can be looked up, followed and cancelled by their id, in any process of the store.

The catalog holds every job. The process that runs one renews it there, twice a second while its progress changes, and
stops it when another process has ended it.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from service.domain.job import ACTIVE, KEPT_S, LEASE_S, JobRecord, JobState, JobUpdate, JobVersion, Progress
from service.domain.version import Publication
from service.errors import JobCancelled, StoreUnavailable, UnknownJob, VersionCorrupt, client_deleted, worker_lost
from service.runtime.adapt_queue import JobControl
from service.store.ports import JobRecords
from service.usecases.adapt_command import AdaptOutcome

RENEW_S: Final = 0.5
"""Seconds between two looks at the jobs of this process: shortest time between two writes of their progress."""

_RENEW_LEASE_S: Final = LEASE_S / 6


@dataclass(frozen=True, slots=True)
class Job:
    """A job, with the versions that it has made.

    Attributes:
        id: 128 random bits.
        client: client of the version that it makes.
        created_at: UTC.
        state: a job that was cancelled makes no version.
        progress: the latest that is known.
        first: the version from prototypes, if there is one.
        result: the version, if the job is done.
        problem: the error as HTTP reports it, if the job failed; None also if its worker was lost.
    """

    id: str
    client: str
    created_at: datetime
    state: JobState
    progress: Progress
    first: AdaptOutcome | None
    result: AdaptOutcome | None
    problem: Mapping[str, Any] | None


@dataclass(eq=False, slots=True)
class _Running:
    """A job of this process that has not ended, and what was last written of it."""

    record: JobRecord
    control: JobControl
    followed: bool
    future: Future[AdaptOutcome] | None = None
    end: JobUpdate | None = None
    written: JobUpdate | None = None
    renewed_at_s: float = 0.0

    def update(self) -> JobUpdate:
        """What to write: its end, or its progress if anyone can follow it."""
        if self.end is not None:
            return self.end
        started = self.future is not None and self.future.running()
        progress, first = (self.control.progress, self.control.first) if self.followed else (Progress(), None)
        return JobUpdate(self.record.id, "running" if started else "waiting", progress, _version(first))


class Jobs:
    """The jobs of a store, and those of them that this process runs. Thread-safe.

    Args:
        records: where they are stored.
        clock: monotonic seconds.
    """

    def __init__(self, records: JobRecords, clock: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._clock = clock
        self._worker = secrets.token_hex(16)
        self._running: dict[str, _Running] = {}
        self._watchers: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, job_id: str, client: str, key: str | None, control: JobControl, *, followed: bool = True) -> None:
        """Store a job that this process is about to run.

        Args:
            job_id: see `new_job_id`.
            client: client name.
            key: its Idempotency-Key, if it has one.
            control: reports its progress and can stop it.
            followed: whether anyone knows the id. If not, its progress is not written.

        Raises:
            IdempotencyInFlight: a job of the client with the same key runs, in this or another process.
            StoreFull, StoreUnavailable: it was not stored.
        """
        record = JobRecord(job_id, client, self._worker, key, datetime.now(UTC))
        self._records.add(record)
        if followed:
            control.on_change(lambda: self._notify(job_id))
        with self._lock:
            self._running[job_id] = _Running(record, control, followed, renewed_at_s=self._clock())
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_for_ever, name="jobs", daemon=True)
                self._thread.start()

    def started(self, job_id: str, future: Future[AdaptOutcome]) -> None:
        """Record what will be the outcome of a job of this process."""
        with self._lock:
            job = self._running.get(job_id)
            if job is not None:
                job.future = future

    def end(self, job_id: str, future: Future[AdaptOutcome], problem: Mapping[str, Any] | None = None) -> None:
        """Record how a job of this process has ended.

        Args:
            job_id: the job.
            future: its outcome.
            problem: the error as HTTP reports it, if it failed.
        """
        with self._lock:
            job = self._running.get(job_id)
        if job is None:
            return
        outcome = None if future.cancelled() or future.exception() else future.result()
        state: JobState = "cancelled" if future.cancelled() else "failed" if outcome is None else "done"
        end = job.end = replace(job.update(), state=state, result=_version(outcome), problem=problem)
        try:
            self._write_end(job, end)
        except StoreUnavailable as error:  # `renew` tries again until the lease has expired
            structlog.get_logger("anole.jobs").warning("the end of a job is not written", job=job_id, reason=str(error))
        self._notify(job_id)

    def remove(self, job_id: str) -> None:
        """Delete a job of this process that was not accepted after all."""
        with self._lock:
            self._running.pop(job_id, None)
        self._records.remove(job_id)

    def get(self, job_id: str, can_access: Callable[[str], bool]) -> Job:
        """Return a job. Blocks.

        Args:
            job_id: the id from the request.
            can_access: tells whether the caller can access a client; jobs of other clients are not found.

        Raises:
            UnknownJob: there is no such job, or it ended long ago.
        """
        record = self._records.get(job_id) if job_id.isprintable() else None  # PostgreSQL's texts cannot hold a NUL
        if record is None or not can_access(record.client):
            raise UnknownJob(
                f"there is no job {job_id[:64]!r}; jobs are removed {KEPT_S / 60:g} min after they ended, and with "
                "their client: list the versions of the client, or send the request again with the same Idempotency-Key"
            )
        job = Job(
            id=record.id,
            client=record.client,
            created_at=record.created_at,
            state=record.state,
            progress=record.progress,
            first=_outcome(record.first),
            result=_outcome(record.result),
            problem=record.problem,
        )
        with self._lock:
            own = self._running.get(job_id)
        return job if own is None or job.state not in ACTIVE else _with_latest(job, own)

    def cancel(self, job_id: str, can_access: Callable[[str], bool]) -> Job:
        """Cancel a job, unless it has ended, and return it. It makes no version. Blocks; raises as `get`."""
        job = self.get(job_id, can_access)
        if job.state in ACTIVE and self._records.end(JobUpdate(job_id, "cancelled", job.progress, _version(job.first))):
            self._stop(job_id, "cancelled")
        return self.get(job_id, can_access)

    def lose(self, job_id: str) -> Job:
        """End a job whose process is lost, unless it has ended, and return it. Blocks; raises as `get`."""
        self._records.end(JobUpdate(job_id, "failed", self.get(job_id, lambda _: True).progress))
        return self.get(job_id, lambda _: True)

    @contextmanager
    def followed(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set after each change of a job that this process runs."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not event.is_set() and not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

        with self._lock:
            self._watchers[job_id].append(wake)
        try:
            yield event
        finally:
            with self._lock:
                self._watchers[job_id].remove(wake)
                if not self._watchers[job_id]:
                    del self._watchers[job_id]

    def renew(self) -> None:
        """Write the changed progress of this process's jobs, renew leases, and stop jobs that others have ended.

        Blocks. A thread calls it twice a second.

        Raises:
            StoreUnavailable, VersionCorrupt: the catalog cannot be used; the next call tries again.
        """
        with self._lock:
            running = list(self._running.values())
        for job in running:
            if job.end is not None:
                self._write_end(job, job.end)
        running = [job for job in running if job.end is None]
        now_s = self._clock()
        updates = {job.record.id: job.update() for job in running}
        due = any(now_s - job.renewed_at_s >= _RENEW_LEASE_S for job in running)
        if due or any(job.followed and job.written != updates[job.record.id] for job in running):
            ended = self._records.renew(self._worker, list(updates.values()))
            for job in running:
                job.written, job.renewed_at_s = updates[job.record.id], now_s
        else:
            ended = self._records.ended(updates) if updates else {}
        for job_id, state in ended.items():
            self._stop(job_id, state)

    def metrics(self) -> dict[str, float]:
        """Number of jobs of this process that have not ended."""
        with self._lock:
            return {"adapt_jobs": sum(job.followed and job.end is None for job in self._running.values())}

    def close(self) -> None:
        """Renew no more jobs."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _write_end(self, job: _Running, end: JobUpdate) -> None:
        """Write the end of a job. One that made a version has ended in the catalog already, with it."""
        try:
            self._records.end(end)
        except VersionCorrupt as error:  # no later attempt can succeed
            structlog.get_logger("anole.jobs").warning(
                "the end of a job is not written", job=job.record.id, reason=str(error)
            )
        with self._lock:
            self._running.pop(job.record.id, None)

    def _stop(self, job_id: str, state: JobState | None) -> None:
        """Stop a job of this process that has ended in the catalog. It cannot make a version any more."""
        with self._lock:
            job = self._running.get(job_id)
        if job is None or state == "done":
            return
        if state is None:
            error: Exception = client_deleted(job.record.client)
        elif state == "cancelled":
            error = JobCancelled(f"job {job_id} was cancelled")
        else:
            error = worker_lost(job_id)
        job.control.stop(error)
        if job.future is not None:
            job.future.cancel()
        self._notify(job_id)

    def _notify(self, job_id: str) -> None:
        with self._lock:
            watchers = tuple(self._watchers.get(job_id, ()))
        for wake in watchers:
            wake()

    def _renew_for_ever(self) -> None:
        while not self._closed.wait(RENEW_S):
            try:
                self.renew()
            except (StoreUnavailable, VersionCorrupt) as error:
                structlog.get_logger("anole.jobs").warning("jobs are not renewed", reason=str(error))


def _with_latest(job: Job, own: _Running) -> Job:
    """Return a job of this process with what is not written yet."""
    update, first = own.update(), own.control.first or job.first
    result = own.future.result() if own.future is not None and update.state == "done" else None
    return replace(
        job, state=update.state, progress=update.progress, first=first, result=result, problem=update.problem
    )


def _version(outcome: AdaptOutcome | None) -> JobVersion | None:
    return None if outcome is None else JobVersion(outcome.version.number, outcome.live)


def _outcome(publication: Publication | None) -> AdaptOutcome | None:
    return None if publication is None else AdaptOutcome.of(publication)
