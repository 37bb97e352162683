"""Jobs: their states, cancelling, what is written of them and when, and jobs that another process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import pytest
import structlog

from service.domain.job import LEASE_S, JobState, JobUpdate, Progress, new_job_id
from service.errors import ClientDeleted, JobCancelled, StoreUnavailable, UnknownJob, VersionCorrupt, WorkerLost
from service.runtime.adapt_queue import JobControl
from service.usecases.adapt_command import AdaptOutcome
from service.usecases.jobs import Job, Jobs
from tests.unit.service.fake_jobs import MemoryJobs
from tests.unit.service.fakes import FakeAdaptation, FakeClients
from tests.unit.service.usecases.test_idempotency import COMMAND


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Started:
    """A job that a test runs step by step."""

    def __init__(self, jobs: Jobs, *, running: bool = True, followed: bool = True) -> None:
        self.id, self.control, self.future = new_job_id(), JobControl(), Future[AdaptOutcome]()
        self._jobs = jobs
        jobs.add(self.id, "line", None, self.control, followed=followed)
        jobs.started(self.id, self.future)
        self.future.add_done_callback(lambda future: jobs.end(self.id, future, {"code": "broken"}))
        if running:
            self.future.set_running_or_notify_cancel()

    def read(self) -> Job:
        return self._jobs.get(self.id, lambda _: True)

    def cancel(self) -> Job:
        return self._jobs.cancel(self.id, lambda _: True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clients() -> FakeClients:
    return FakeClients()


@pytest.fixture
def records(clients: FakeClients) -> MemoryJobs:
    return MemoryJobs(clients.publication)


@pytest.fixture
def jobs(records: MemoryJobs, clock: Clock) -> Jobs:
    """Jobs whose thread does nothing, so that only the tests renew them."""
    jobs = Jobs(records, clock)
    jobs.close()
    return jobs


@pytest.fixture
def outcome(clients: FakeClients) -> AdaptOutcome:
    return FakeAdaptation(clients).run(COMMAND)


def test_a_job_has_the_state_the_progress_and_the_result_of_its_adaptation(jobs: Jobs, outcome: AdaptOutcome) -> None:
    job = Started(jobs, running=False)
    assert (job.read().state, job.read().client) == ("waiting", "line")
    job.future.set_running_or_notify_cancel()
    job.control.plan(4)
    job.control.step(0.5)
    assert (job.read().state, job.read().progress) == ("running", Progress("waiting", 1, 4, 0.5))
    job.control.publish_first(outcome)
    assert (job.read().first, job.read().result) == (outcome, None)
    job.future.set_result(outcome)
    assert (job.read().state, job.read().first, job.read().result) == ("done", outcome, outcome)
    assert job.read().progress == Progress("waiting", 1, 4, 0.5)


def test_a_failed_job_has_its_problem(jobs: Jobs) -> None:
    job = Started(jobs)
    job.future.set_exception(KeyError("gone"))
    assert (job.read().state, job.read().problem) == ("failed", {"code": "broken"})


def test_a_cancelled_job_is_stopped_and_stays_cancelled(jobs: Jobs) -> None:
    job = Started(jobs)
    assert job.cancel().state == "cancelled"
    with pytest.raises(JobCancelled, match=job.id):
        job.control.check()
    job.future.set_exception(JobCancelled("stopped"))
    assert (job.read().state, job.read().problem) == ("cancelled", None)


def test_a_job_that_waits_is_withdrawn_when_it_is_cancelled(jobs: Jobs) -> None:
    job = Started(jobs, running=False)
    job.cancel()
    assert job.future.cancelled()
    assert job.read().state == "cancelled"


def test_a_job_that_has_ended_is_not_cancelled(jobs: Jobs, outcome: AdaptOutcome) -> None:
    job = Started(jobs)
    job.future.set_result(outcome)
    assert (job.cancel().state, job.cancel().result) == ("done", outcome)


def test_jobs_of_clients_that_the_caller_cannot_access_are_unknown(jobs: Jobs) -> None:
    job = Started(jobs)
    for call in (jobs.get, jobs.cancel):
        with pytest.raises(UnknownJob):
            call(job.id, lambda client: client != "line")
    job.control.check()


def test_changed_progress_is_written_once(jobs: Jobs, records: MemoryJobs) -> None:
    job = Started(jobs)
    for _ in range(3):
        job.control.step()
        jobs.renew()
        jobs.renew()
    assert [update.progress.steps_done for updates in records.renewed for update in updates] == [1, 2, 3]
    assert records.kept[job.id].state == "running"


def test_leases_are_renewed_in_time_while_nothing_changes(jobs: Jobs, records: MemoryJobs, clock: Clock) -> None:
    Started(jobs)
    jobs.renew()
    for clock.now in range(int(LEASE_S)):
        jobs.renew()
    assert len(records.renewed) == 1 + LEASE_S // 5 - 1


def test_the_progress_of_requests_that_nobody_follows_is_not_written(
    jobs: Jobs, records: MemoryJobs, clock: Clock
) -> None:
    job = Started(jobs, followed=False)
    job.control.step()
    jobs.renew()
    assert records.renewed == []
    clock.now = LEASE_S / 2
    jobs.renew()
    assert [update.progress for updates in records.renewed for update in updates] == [Progress()]
    assert not job.control.observed
    assert jobs.metrics() == {"adapt_jobs": 0}


@pytest.mark.parametrize("written", [True, False])
def test_a_job_that_another_process_cancels_is_stopped(jobs: Jobs, records: MemoryJobs, written: bool) -> None:
    job = Started(jobs)
    jobs.renew()
    records.end(JobUpdate(job.id, "cancelled", Progress()))
    if written:
        job.control.step()
    jobs.renew()
    with pytest.raises(JobCancelled):
        job.control.check()


def test_a_job_that_others_take_for_lost_is_stopped(jobs: Jobs, records: MemoryJobs) -> None:
    job = Started(jobs)
    records.end(JobUpdate(job.id, "failed", Progress()))
    jobs.renew()
    with pytest.raises(WorkerLost):
        job.control.check()
    job.future.set_exception(WorkerLost("stopped"))
    assert (job.read().state, job.read().problem) == ("failed", None)


def test_a_job_whose_client_is_deleted_is_stopped_and_unknown(jobs: Jobs, records: MemoryJobs) -> None:
    job = Started(jobs)
    records.remove(job.id)
    jobs.renew()
    with pytest.raises(ClientDeleted):
        job.control.check()
    with pytest.raises(UnknownJob, match="list the versions"):
        job.read()


def test_the_end_of_a_job_is_written_when_the_store_works_again(jobs: Jobs, records: MemoryJobs) -> None:
    job = Started(jobs)
    records.raises = StoreUnavailable("the disk is full")
    job.future.set_exception(KeyError("gone"))
    with pytest.raises(StoreUnavailable):
        jobs.renew()
    records.raises = None
    assert (records.kept[job.id].state, job.read().state) == ("waiting", "failed")
    jobs.renew()
    assert (records.kept[job.id].state, records.kept[job.id].problem) == ("failed", {"code": "broken"})


def test_a_job_whose_row_is_damaged_does_not_hold_up_the_others(jobs: Jobs, records: MemoryJobs) -> None:
    damaged, good = Started(jobs), Started(jobs)
    records.raises = StoreUnavailable("the disk is full")
    damaged.future.set_exception(KeyError("gone"))
    records.raises = None
    records.damaged.add(damaged.id)
    good.control.step()
    jobs.renew()
    assert records.kept[good.id].progress.steps_done == 1
    with pytest.raises(VersionCorrupt):
        damaged.read()
    jobs.renew()
    assert jobs.metrics() == {"adapt_jobs": 1}


def test_a_job_that_was_not_accepted_leaves_nothing(jobs: Jobs, records: MemoryJobs) -> None:
    job = Started(jobs)
    jobs.remove(job.id)
    assert (records.kept, jobs.metrics()) == ({}, {"adapt_jobs": 0})


def test_followers_are_woken_by_progress_by_a_cancellation_and_by_the_end(jobs: Jobs) -> None:
    async def follow() -> list[bool]:
        woken: list[bool] = []
        job = Started(jobs)
        for change in (job.control.step, job.cancel, lambda: job.future.set_exception(KeyError())):
            with jobs.followed(job.id) as changed:
                change()
                await asyncio.sleep(0)
                woken.append(changed.is_set())
        return woken

    assert asyncio.run(follow()) == [True, True, True]


def test_a_follower_that_has_left_is_not_woken_any_more(jobs: Jobs) -> None:
    async def follow() -> tuple[bool, bool]:
        job = Started(jobs)
        with jobs.followed(job.id) as stays:
            with jobs.followed(job.id) as leaves:
                pass
            job.control.step()
            await asyncio.sleep(0)
            return stays.is_set(), leaves.is_set()

    assert asyncio.run(follow()) == (True, False)


def test_jobs_are_renewed_in_the_background(records: MemoryJobs) -> None:
    jobs = Jobs(records)
    job = Started(jobs)
    job.control.step()
    records.until_renewed()
    jobs.close()
    assert records.kept[job.id].progress.steps_done == 1


def test_a_store_that_fails_for_a_while_is_warned_about_and_jobs_are_renewed_again(clients: FakeClients) -> None:
    class FailsOnce(MemoryJobs):
        failed = False

        def renew(self, worker: str, updates: Sequence[JobUpdate]) -> Mapping[str, JobState | None]:
            if not self.failed:
                self.failed = True
                raise StoreUnavailable("the disk is full")
            return super().renew(worker, updates)

    records = FailsOnce(clients.publication)
    with structlog.testing.capture_logs() as lines:
        jobs = Jobs(records)
        job = Started(jobs)
        job.control.step()
        records.until_renewed()
        jobs.close()
    assert [(line["event"], line["reason"]) for line in lines] == [("jobs are not renewed", "the disk is full")]
    assert records.kept[job.id].progress.steps_done == 1


def test_a_job_whose_process_is_lost_fails_with_its_progress(
    jobs: Jobs, records: MemoryJobs, outcome: AdaptOutcome
) -> None:
    elsewhere = Jobs(records)
    elsewhere.close()
    lost, done = Started(elsewhere), Started(elsewhere)
    lost.control.step()
    elsewhere.renew()
    assert jobs.lose(lost.id).state == "failed"
    assert (records.kept[lost.id].progress.steps_done, records.kept[lost.id].problem) == (1, None)
    done.future.set_result(outcome)
    assert jobs.lose(done.id).state == "done"
    with pytest.raises(UnknownJob):
        jobs.lose(new_job_id())
