"""The executor: results in order, the first error of a group, threads shared fairly between groups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from models.adaptation.executor import FairExecutor

WAIT_S = 30


@pytest.fixture
def executor() -> Iterator[FairExecutor]:
    executor = FairExecutor(2)
    yield executor
    executor.close()


def test_results_come_in_the_order_of_the_calls(executor: FairExecutor) -> None:
    assert executor.run([partial(pow, number, 2) for number in range(9)]) == [number**2 for number in range(9)]
    assert executor.run([]) == []


def test_the_first_error_ends_its_group_and_no_other(executor: FairExecutor) -> None:
    ran: list[int] = []

    def fail() -> None:
        raise KeyError("mine")

    def record(number: int) -> None:
        ran.append(number)

    calls: list[Callable[[], None]] = [fail, *(partial(record, number) for number in range(100))]
    failing, other = executor.submit(calls), executor.submit([partial(pow, 3, 2)])
    with pytest.raises(KeyError, match="mine"):
        failing.results()
    assert other.results() == [9]
    assert executor.run([partial(record, -1)]) == [None]
    assert ran[-1] == -1


def test_a_free_thread_goes_to_the_group_with_the_fewest_running_calls(executor: FairExecutor) -> None:
    order: list[str] = []
    started, finish = threading.Semaphore(0), threading.Event()

    def call(name: str) -> None:
        order.append(name)
        started.release()
        assert finish.wait(WAIT_S)

    slow = executor.submit([partial(call, "slow")] * 6)
    for _ in range(2):
        assert started.acquire(timeout=WAIT_S)
    late = executor.submit([partial(call, "late")])
    finish.set()
    late.results()
    slow.results()
    assert order == ["slow", "slow", "late", "slow", "slow", "slow", "slow"]


def test_a_group_that_is_alone_gets_every_thread(executor: FairExecutor) -> None:
    both = threading.Barrier(2)
    executor.run([partial(both.wait, WAIT_S)] * 4)


def test_the_initializer_runs_once_in_each_thread() -> None:
    threads: list[int] = []
    both = threading.Barrier(2)
    executor = FairExecutor(2, lambda: threads.append(threading.get_ident()))
    executor.run([partial(both.wait, WAIT_S)] * 4)
    executor.close()
    assert len(threads) == len(set(threads)) == 2
