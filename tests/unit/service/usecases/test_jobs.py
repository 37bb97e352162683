"""Jobs: states, cancelling, and which ended jobs are kept."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from service.errors import JobCancelled, UnknownJob
from service.runtime.adapt_queue import JobControl
from service.usecases.adapt_command import AdaptOutcome
from service.usecases.jobs import KEPT_S, MAX_KEPT, Job, Jobs
from tests.unit.service.fakes import FakeAdaptation, FakeClients
from tests.unit.service.usecases.test_idempotency import COMMAND


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> Jobs:
    return Jobs(clock)


@pytest.fixture
def outcome() -> AdaptOutcome:
    return FakeAdaptation(FakeClients()).run(COMMAND)


def is_kept(jobs: Jobs, job: Job) -> bool:
    try:
        return jobs.get(job.id, lambda _: True) is job
    except UnknownJob:
        return False


def running(control: JobControl) -> Job:
    job = Job("line", control, Future())
    job.future.set_running_or_notify_cancel()
    return job


def test_the_jobs_that_ended_first_are_removed_first(jobs: Jobs, clock: Clock) -> None:
    added = [jobs.add("line", JobControl(), Future()) for _ in range(MAX_KEPT + 2)]
    ended = [added[1], added[-1], added[0], *added[2:-1]]  # not in the order in which they were added
    for job in ended:
        clock.now += 1.0
        jobs.ended(job)
    assert [is_kept(jobs, job) for job in ended] == [False, False] + [True] * MAX_KEPT


def test_running_jobs_are_never_removed(jobs: Jobs, clock: Clock) -> None:
    running_job = jobs.add("line", JobControl(), Future())
    for _ in range(MAX_KEPT + 1):
        jobs.ended(jobs.add("line", JobControl(), Future()))
    clock.now += 10 * KEPT_S
    assert is_kept(jobs, running_job)
    assert jobs.metrics() == {"adapt_jobs": 1}


def test_an_ended_job_is_kept_for_a_while(jobs: Jobs, clock: Clock) -> None:
    job = jobs.add("line", JobControl(), Future())
    clock.now = 50.0
    jobs.ended(job)
    clock.now = 50.0 + KEPT_S
    assert is_kept(jobs, job)
    clock.now += 0.1
    assert not is_kept(jobs, job)


def test_a_job_has_the_state_and_result_of_its_future(outcome: AdaptOutcome) -> None:
    job = Job("line", JobControl(), Future())
    assert job.state == "waiting"
    job.future.set_running_or_notify_cancel()
    assert (job.state, job.outcome, job.error) == ("running", None, None)
    job.future.set_result(outcome)
    assert (job.state, job.outcome, job.error) == ("done", outcome, None)


def test_a_job_whose_thread_was_interrupted_has_an_ordinary_error() -> None:
    job = running(JobControl())
    job.future.set_exception(SystemExit())
    assert (job.state, str(job.error)) == ("failed", "the job was interrupted")


def test_a_cancelled_job_is_stopped() -> None:
    control = JobControl()
    job = running(control)
    job.cancel()
    assert job.state == "cancelled"
    with pytest.raises(JobCancelled, match=job.id):
        control.check()
    job.future.set_exception(JobCancelled("stopped"))
    assert (job.state, job.error) == ("cancelled", None)


def test_followers_are_woken_by_progress_by_a_cancellation_and_by_the_end(jobs: Jobs) -> None:
    async def follow() -> list[bool]:
        woken: list[bool] = []
        control = JobControl()
        job = jobs.add("line", control, Future())
        job.future.set_running_or_notify_cancel()
        for change in (control.step, job.cancel, lambda: jobs.ended(job)):
            with job.followed() as changed:
                change()
                await asyncio.sleep(0)
                woken.append(changed.is_set())
        return woken

    assert asyncio.run(follow()) == [True, True, True]


def test_a_follower_that_has_left_is_not_woken_any_more(jobs: Jobs) -> None:
    async def follow() -> tuple[bool, bool]:
        job = jobs.add("line", JobControl(), Future())
        with job.followed() as stays:
            with job.followed() as leaves:
                pass
            job.notify()
            await asyncio.sleep(0)
            return stays.is_set(), leaves.is_set()

    assert asyncio.run(follow()) == (True, False)


def test_a_job_that_waits_is_withdrawn_when_it_is_cancelled() -> None:
    job = Job("line", JobControl(), Future())
    job.cancel()
    assert job.future.cancelled()
    assert job.state == "cancelled"


def test_a_job_is_not_cancelled_while_its_version_is_recorded_or_afterwards(outcome: AdaptOutcome) -> None:
    control = JobControl()
    job = running(control)
    with control.committing():
        job.cancel()
        assert job.state == "running"
    job.cancel()
    job.future.set_result(outcome)
    assert (job.state, job.outcome) == ("done", outcome)


def test_a_job_that_has_ended_is_not_cancelled(outcome: AdaptOutcome) -> None:
    job = running(JobControl())
    job.future.set_result(outcome)
    job.cancel()
    assert job.state == "done"


def test_jobs_of_clients_that_the_caller_cannot_access_are_unknown(jobs: Jobs) -> None:
    job = jobs.add("line", JobControl(), Future())
    with pytest.raises(UnknownJob):
        jobs.get(job.id, lambda client: client != "line")
