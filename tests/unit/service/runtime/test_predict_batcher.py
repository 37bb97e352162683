"""The batcher: waiting jobs run as one batch, and each gets its result or its error."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest

from service.errors import Overloaded
from service.runtime.predict_batcher import PredictBatcher

LIMIT_S = 30


class Work:
    """Doubles numbers and records the batches; waits in each batch until `go` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.started = threading.Semaphore(0)

    def __call__(self, jobs: Sequence[int]) -> Iterator[tuple[int, int | Exception]]:
        self.batches.append(list(jobs))
        self.started.release()
        assert self.go.wait(LIMIT_S)
        for index, job in reversed(list(enumerate(jobs))):
            yield index, ValueError(job) if job < 0 else 2 * job


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def batcher(work: Work) -> Iterator[PredictBatcher[int, int]]:
    """One thread, batches of four, already busy with the job 0."""
    batcher: PredictBatcher[int, int] = PredictBatcher(work, max_size=4, threads=1)
    batcher.submit(0)
    assert work.started.acquire(timeout=LIMIT_S)
    yield batcher
    work.go.set()
    batcher.close()


def test_waiting_jobs_run_together_in_order_up_to_the_size(work: Work, batcher: PredictBatcher[int, int]) -> None:
    results = [batcher.submit(job, size) for job, size in [(1, 1), (2, 2), (3, 2), (4, 9), (5, 1)]]
    work.go.set()
    assert [future.result(LIMIT_S) for future in results] == [2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2], [3], [4], [5]]
    assert batcher.metrics() == {
        "predict_batches_total": 5, "predict_batched_requests_total": 6, "predict_waiting": 0
    }  # fmt: skip


def test_a_job_that_gets_a_future_does_not_hold_up_its_batch() -> None:
    later: list[Future[int]] = [Future(), Future()]

    def work(jobs: Sequence[int]) -> Iterator[tuple[int, int | Future[int]]]:
        for index, job in enumerate(jobs):
            yield index, later[-job - 1] if job < 0 else 2 * job

    batcher: PredictBatcher[int, int] = PredictBatcher(work, max_size=4, threads=1)
    waiting = [batcher.submit(job) for job in (-1, -2)]
    assert batcher.submit(3).result(LIMIT_S) == 6
    assert not any(result.done() for result in waiting)
    later[0].set_result(7)
    later[1].set_exception(KeyError("x"))
    assert waiting[0].result(LIMIT_S) == 7
    with pytest.raises(KeyError):
        waiting[1].result(LIMIT_S)
    batcher.close()


def test_an_error_of_one_job_does_not_affect_the_others(work: Work, batcher: PredictBatcher[int, int]) -> None:
    bad, good = batcher.submit(-1), batcher.submit(7)
    work.go.set()
    assert good.result(LIMIT_S) == 14
    with pytest.raises(ValueError, match="-1"):
        bad.result(LIMIT_S)


def test_a_job_cancelled_while_it_waits_does_not_run(work: Work, batcher: PredictBatcher[int, int]) -> None:
    gone, stays = batcher.submit(1), batcher.submit(2)
    assert gone.cancel()
    work.go.set()
    assert stays.result(LIMIT_S) == 4
    assert work.batches[1] == [2]
    with pytest.raises(CancelledError):
        gone.result(LIMIT_S)


def test_closing_ends_waiting_jobs_with_an_error_and_rejects_new_ones(
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
    """An error that is not an Exception."""


@pytest.mark.parametrize("killer", [MemoryError, Killed])
def test_a_crash_fails_only_the_job_that_causes_it(killer: type[BaseException]) -> None:
    gate, started = threading.Event(), threading.Event()

    def work(jobs: Sequence[int]) -> Iterator[tuple[int, int]]:
        started.set()
        assert gate.wait(LIMIT_S)
        for index, job in enumerate(jobs):
            if job == 13:
                raise killer("crashed")
            yield index, job

    batcher: PredictBatcher[int, int] = PredictBatcher(work, max_size=10, threads=1)
    first = batcher.submit(0)
    assert started.wait(LIMIT_S)
    results = [batcher.submit(job) for job in (1, 13, 2)]
    gate.set()
    assert (first.result(LIMIT_S), results[0].result(LIMIT_S), results[2].result(LIMIT_S)) == (0, 1, 2)
    with pytest.raises(killer):
        results[1].result(LIMIT_S)
    assert batcher.submit(5).result(LIMIT_S) == 5  # the thread survived
    batcher.close()


def test_a_job_without_a_result_ends_with_an_error() -> None:
    batcher: PredictBatcher[int, int] = PredictBatcher(lambda jobs: [], max_size=10, threads=1)
    with pytest.raises(RuntimeError, match="got no result"):
        batcher.submit(1).result(LIMIT_S)
    batcher.close()


def test_two_threads_run_two_batches_at_the_same_time() -> None:
    both = threading.Barrier(2)

    def work(jobs: Sequence[int]) -> Iterator[tuple[int, int]]:
        both.wait(LIMIT_S)
        yield from enumerate(jobs)

    batcher: PredictBatcher[int, int] = PredictBatcher(work, max_size=1, threads=2)
    results = [batcher.submit(job) for job in (1, 2)]
    assert [future.result(LIMIT_S) for future in results] == [1, 2]
    batcher.close()
