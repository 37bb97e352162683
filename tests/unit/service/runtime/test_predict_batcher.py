"""The batcher: who waits is taken together, each gets its own answer, and nobody is left waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from service.errors import Overloaded
from service.runtime.predict_batcher import PredictBatcher

LIMIT_S = 30


class Work:
    """Doubles numbers; keeps the batches it saw; begins none before `go` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self, jobs: Sequence[int]) -> Iterator[tuple[int, int | Exception]]:
        self.batches.append(list(jobs))
        self.begun.release()
        assert self.go.wait(LIMIT_S)
        for place, job in reversed(list(enumerate(jobs))):
            yield place, ValueError(job) if job < 0 else 2 * job


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def batcher(work: Work) -> Iterator[PredictBatcher[int, int]]:
    """One thread, batches of four, already busy with the job 0."""
    made: PredictBatcher[int, int] = PredictBatcher(work, most=4, threads=1)
    made.submit(0)
    assert work.begun.acquire(timeout=LIMIT_S)
    yield made
    work.go.set()
    made.close()


def test_what_waits_is_taken_together_in_order_up_to_the_size(work: Work, batcher: PredictBatcher[int, int]) -> None:
    answers = [batcher.submit(job, size) for job, size in [(1, 1), (2, 2), (3, 2), (4, 9), (5, 1)]]
    work.go.set()
    assert [answer.result(LIMIT_S) for answer in answers] == [2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2], [3], [4], [5]]
    assert batcher.metrics() == {
        "predict_batches_total": 5, "predict_batched_requests_total": 6, "predict_waiting": 0
    }  # fmt: skip


def test_an_error_is_one_jobs_alone(work: Work, batcher: PredictBatcher[int, int]) -> None:
    bad, good = batcher.submit(-1), batcher.submit(7)
    work.go.set()
    assert good.result(LIMIT_S) == 14
    with pytest.raises(ValueError, match="-1"):
        bad.result(LIMIT_S)


def test_a_job_that_is_cancelled_while_it_waits_is_not_worked_on(work: Work, batcher: PredictBatcher[int, int]) -> None:
    gone, stays = batcher.submit(1), batcher.submit(2)
    assert gone.cancel()
    work.go.set()
    assert stays.result(LIMIT_S) == 4
    assert work.batches[1] == [2]
    with pytest.raises(CancelledError):
        gone.result(LIMIT_S)


def test_who_waits_when_the_batcher_closes_is_told_and_nobody_comes_in_afterwards(
    work: Work, batcher: PredictBatcher[int, int]
) -> None:
    waiting = batcher.submit(1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(Overloaded, match="stopping"):
        waiting.result(LIMIT_S)
    work.go.set()
    closing.join(LIMIT_S)
    assert not closing.is_alive()
    with pytest.raises(Overloaded):
        batcher.submit(2)


class Killed(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("killer", [MemoryError, Killed])
def test_a_crash_costs_the_job_that_causes_it_and_reaches_whoever_waits(killer: type[BaseException]) -> None:
    gate, begun = threading.Event(), threading.Event()

    def work(jobs: Sequence[int]) -> Iterator[tuple[int, int]]:
        begun.set()
        assert gate.wait(LIMIT_S)
        for place, job in enumerate(jobs):
            if job == 13:
                raise killer("crashed")
            yield place, job

    batcher: PredictBatcher[int, int] = PredictBatcher(work, most=10, threads=1)
    first = batcher.submit(0)
    assert begun.wait(LIMIT_S)
    answers = [batcher.submit(job) for job in (1, 13, 2)]
    gate.set()
    assert (first.result(LIMIT_S), answers[0].result(LIMIT_S), answers[2].result(LIMIT_S)) == (0, 1, 2)
    with pytest.raises(killer):
        answers[1].result(LIMIT_S)
    assert batcher.submit(5).result(LIMIT_S) == 5  # the thread goes on
    batcher.close()


def test_a_job_that_is_forgotten_ends_in_an_error() -> None:
    batcher: PredictBatcher[int, int] = PredictBatcher(lambda jobs: [], most=10, threads=1)
    with pytest.raises(RuntimeError, match="no answer"):
        batcher.submit(1).result(LIMIT_S)
    batcher.close()


def test_two_threads_work_on_two_batches_at_once() -> None:
    both = threading.Barrier(2)

    def work(jobs: Sequence[int]) -> Iterator[tuple[int, int]]:
        both.wait(LIMIT_S)
        yield from enumerate(jobs)

    batcher: PredictBatcher[int, int] = PredictBatcher(work, most=1, threads=2)
    answers = [batcher.submit(job) for job in (1, 2)]
    assert [answer.result(LIMIT_S) for answer in answers] == [1, 2]
    batcher.close()
