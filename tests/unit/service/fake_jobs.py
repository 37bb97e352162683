"""A fake of the jobs in the catalog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from service.domain.job import ACTIVE, JobRecord, JobState, JobUpdate, JobVersion
from service.domain.version import Publication
from service.errors import IdempotencyInFlight, VersionCorrupt
from service.store.ports import JobRecords


class MemoryJobs(JobRecords):
    """Keeps jobs in a dictionary.

    Args:
        publication: returns how a version of a client was published.

    Attributes:
        kept: the jobs by id.
        raises: the error that a test sets for every call.
        damaged: jobs whose rows cannot be read.
        renewed: the updates of each call of `renew`.
    """

    def __init__(self, publication: Callable[[str, JobVersion], Publication]) -> None:
        self._publication = publication
        self.kept: dict[str, JobRecord] = {}
        self.raises: Exception | None = None
        self.damaged: set[str] = set()
        self.renewed: list[Sequence[JobUpdate]] = []
        self._reads, self._read = 0, threading.Condition()
        self._was_renewed = threading.Event()

    def add(self, job: JobRecord) -> None:
        self._fail()
        if any((job.client, job.key) == (other.client, other.key) and job.key for other in self._active()):
            raise IdempotencyInFlight("the same request is still running")
        self.kept[job.id] = job

    def get(self, job_id: str) -> JobRecord | None:
        self._fail()
        with self._read:
            self._reads += 1
            self._read.notify_all()
        self._verify(job_id)
        return self.kept.get(job_id)

    def until_read(self, count: int) -> None:
        """Wait until jobs were read so many times."""
        with self._read:
            assert self._read.wait_for(lambda: self._reads >= count, 30)

    def renew(self, worker: str, updates: Sequence[JobUpdate]) -> Mapping[str, JobState | None]:
        self._fail()
        self.renewed.append(updates)
        ended = self.ended([each.id for each in updates])
        for each in updates:
            if each.id not in ended and each.id not in self.damaged:
                self._write(each)
        self._was_renewed.set()
        return ended

    def until_renewed(self) -> None:
        """Wait until jobs were renewed."""
        assert self._was_renewed.wait(30)

    def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState | None]:
        self._fail()
        states = {job_id: self.kept[job_id].state if job_id in self.kept else None for job_id in job_ids}
        return {job_id: state for job_id, state in states.items() if state not in ACTIVE}

    def end(self, update: JobUpdate) -> bool:
        self._fail()
        self._verify(update.id)
        if update.id in self.ended([update.id]):
            return False
        self._write(update)
        return True

    def remove(self, job_id: str) -> None:
        self.kept.pop(job_id, None)

    def _active(self) -> list[JobRecord]:
        return [job for job in self.kept.values() if job.state in ACTIVE]

    def _fail(self) -> None:
        if self.raises is not None:
            raise self.raises

    def _verify(self, job_id: str) -> None:
        if job_id in self.damaged:
            raise VersionCorrupt(f"the row of job {job_id} is damaged")

    def _write(self, update: JobUpdate) -> None:
        job = self.kept[update.id]
        self.kept[update.id] = replace(
            job,
            state=update.state,
            progress=update.progress,
            first=None if update.first is None else self._publication(job.client, update.first),
            result=None if update.result is None else self._publication(job.client, update.result),
            problem=update.problem,
        )
