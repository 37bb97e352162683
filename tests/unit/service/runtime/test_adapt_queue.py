"""The adapt queue: clients take turns, each request gets its own result or error, and accepted work is not lost.

Also the control of one adaptation: its progress, and stopping it until its version is stored.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

import pytest

from service.domain.job import Progress
from service.errors import DeadlinePassed, Overloaded
from service.runtime.adapt_queue import AdaptQueue, JobControl

LIMIT_S = 30


class Controlled:
    """Queues work that runs until it is released, and records the order in which it started."""

    def __init__(self, queue: AdaptQueue) -> None:
        self.queue = queue
        self.started_order: list[str] = []
        self.started = threading.Semaphore(0)
        self.go: dict[str, threading.Event] = {}
        self.most_running = self.running = 0
        self.lock = threading.Lock()

    def submit(self, client: str, name: str = "", control: JobControl | None = None) -> Future[str]:
        name, control = name or client, control or JobControl()
        go = self.go[name] = threading.Event()

        def work() -> str:
            with self.lock:
                self.started_order.append(name)
                self.running += 1
                self.most_running = max(self.most_running, self.running)
            self.started.release()
            assert go.wait(LIMIT_S)
            with self.lock:
                self.running -= 1
            control.check()
            return name.upper()

        return self.queue.submit(client, work, control)

    def release(self) -> None:
        for go in self.go.values():
            go.set()


@pytest.fixture
def make() -> Iterator[Callable[[int], Controlled]]:
    made: list[Controlled] = []

    def build(running: int) -> Controlled:
        made.append(Controlled(AdaptQueue(running)))
        return made[-1]

    yield build
    for held in made:
        held.release()
        held.queue.close()


class Stoppable(JobControl):
    """Signals when it is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = threading.Event()

    def stop(self, error: Exception) -> bool:
        in_time = super().stop(error)
        self.stopped.set()
        return in_time


def test_each_request_gets_its_own_result_or_its_own_error(make: Callable[[int], Controlled]) -> None:
    queue = make(2).queue

    def fail() -> str:
        raise ZeroDivisionError("its own")

    results = [queue.submit(f"c{number}", partial(int, number), JobControl()) for number in range(5)]
    failed = queue.submit("bad", fail, JobControl())
    assert [result.result(LIMIT_S) for result in results] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError, match="its own"):
        failed.result(LIMIT_S)
    assert queue.submit("bad", lambda: "again", JobControl()).result(LIMIT_S) == "again"


def test_at_most_the_limit_runs_and_at_most_one_request_per_client(make: Callable[[int], Controlled]) -> None:
    held = make(2)
    results = [held.submit("a", f"a{number}") for number in range(3)] + [held.submit("b"), held.submit("c")]
    for _ in range(2):
        assert held.started.acquire(timeout=LIMIT_S)
    assert held.started_order == ["a0", "b"]
    assert held.queue.metrics() == {"adapt_waiting": 3, "adapt_in_work": 2, "adapt_ended_total": 0}
    held.release()
    assert [result.result(LIMIT_S) for result in results] == ["A0", "A1", "A2", "B", "C"]
    assert held.most_running == 2


def test_clients_take_turns_when_one_sends_many_requests(make: Callable[[int], Controlled]) -> None:
    held = make(1)
    held.submit("first")
    assert held.started.acquire(timeout=LIMIT_S)
    results = [held.submit("flood", f"f{number}") for number in range(4)] + [held.submit("a"), held.submit("b")]
    held.release()
    for result in results:
        result.result(LIMIT_S)
    assert held.started_order == ["first", "f0", "a", "b", "f1", "f2", "f3"]


def test_a_request_cancelled_while_it_waits_never_starts(make: Callable[[int], Controlled]) -> None:
    held = make(1)
    first, second, third = held.submit("a"), held.submit("b"), held.submit("c")
    assert held.started.acquire(timeout=LIMIT_S)
    assert second.cancel()
    assert held.queue.metrics()["adapt_waiting"] == 1
    held.release()
    assert (first.result(LIMIT_S), third.result(LIMIT_S)) == ("A", "C")
    assert held.started_order == ["a", "c"]


def test_a_request_stopped_while_it_waits_never_starts(make: Callable[[int], Controlled]) -> None:
    held, control = make(1), JobControl()
    first, second = held.submit("a"), held.submit("b", control=control)
    assert held.started.acquire(timeout=LIMIT_S)
    control.stop(DeadlinePassed("over", 2))
    held.release()
    first.result(LIMIT_S)
    with pytest.raises(DeadlinePassed):
        second.result(LIMIT_S)
    assert held.started_order == ["a"]


def test_closing_finishes_accepted_requests(make: Callable[[int], Controlled]) -> None:
    held = make(1)
    results = [held.submit("a"), held.submit("b"), held.submit("a", "a2")]
    held.release()
    held.queue.close(within_s=LIMIT_S)
    assert [result.result(0) for result in results] == ["A", "B", "A2"]
    with pytest.raises(Overloaded, match="stopping"):
        held.submit("c")


def test_requests_that_do_not_finish_before_the_close_end_with_overloaded(
    make: Callable[[int], Controlled],
) -> None:
    held, control = make(1), Stoppable()
    started_order, waiting = held.submit("a", control=control), held.submit("b")
    assert held.started.acquire(timeout=LIMIT_S)
    threading.Thread(target=lambda: held.queue.close(within_s=0), daemon=True).start()
    with pytest.raises(Overloaded, match="stopping"):
        waiting.result(LIMIT_S)
    assert control.stopped.wait(LIMIT_S)
    held.release()
    with pytest.raises(Overloaded, match="stopping"):
        started_order.result(LIMIT_S)


def test_the_memory_of_a_failed_request_is_released(make: Callable[[int], Controlled]) -> None:
    class Large:
        """Represents the tensors of an adaptation that runs out of memory."""

    seen: list[weakref.ref[Large]] = []

    def deeper(large: Large) -> None:
        raise MemoryError(str(large)[:0])

    def fill() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        deeper(large)

    queue = make(1).queue
    failed = queue.submit("a", fill, JobControl())
    with pytest.raises(MemoryError):
        failed.result(LIMIT_S)
    assert seen[0]() is None


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_reported_to_the_callback() -> None:
    control, changes = JobControl(), list[Progress]()
    assert (control.progress, control.observed) == (Progress(), False)
    control.on_change(lambda: changes.append(control.progress))
    control.enter("adapt")
    control.plan(3)
    control.step(0.5)
    control.step()
    assert changes == [
        Progress("adapt"),
        Progress("adapt", 0, 3),
        Progress("adapt", 1, 3, 0.5),
        Progress("adapt", 2, 3, 0.5),
    ]
    control.plan(7)
    assert control.progress == Progress("adapt", 0, 7)


def test_a_stopped_adaptation_ends_at_its_next_step_with_the_first_error() -> None:
    control = JobControl()
    control.step()
    assert control.stop(KeyError("first"))
    assert control.stop(ValueError("second"))
    for proceed in (control.step, control.check, control.start, lambda: control.enter("store")):
        with pytest.raises(KeyError, match="first"):
            proceed()
    with pytest.raises(KeyError), control.committing():
        pytest.fail("it was stored")


def test_an_adaptation_cannot_be_stopped_while_its_version_is_stored_and_afterwards() -> None:
    control = JobControl()
    with control.committing():
        assert not control.stop(KeyError())
    assert not control.stop(KeyError())
    control.check()


def test_an_adaptation_can_be_stopped_after_storing_has_failed() -> None:
    control = JobControl()
    with suppress(OSError), control.committing():
        raise OSError("disk failure")
    assert control.stop(KeyError())
    with pytest.raises(KeyError):
        control.check()


def test_an_adaptation_can_be_stopped_after_its_preliminary_version_is_stored() -> None:
    control = JobControl()
    with control.committing():
        pass
    control.publish_first("version 1")
    assert control.stop(KeyError())


@pytest.mark.parametrize("include_waiting", [True, False])
def test_the_time_limit_counts_from_acceptance_or_from_the_start(include_waiting: bool) -> None:
    clock = Clock()
    control = JobControl(30, include_waiting=include_waiting, clock=clock)
    clock.now += 29
    control.start()
    clock.now += 2
    if include_waiting:
        with pytest.raises(DeadlinePassed, match="after 30 s, and no version was made"):
            control.step()
    else:
        control.step()
        clock.now += 29
        with pytest.raises(DeadlinePassed), control.committing():
            pytest.fail("it was stored")
