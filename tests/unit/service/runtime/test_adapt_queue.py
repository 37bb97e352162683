"""The line before the device: turns by client, each its own result or error, places freed, nothing accepted is lost."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from service.errors import DeadlinePassed, Overloaded
from service.runtime.adapt_queue import AdaptQueue
from service.runtime.job_control import JobControl

LIMIT_S = 30


class Held:
    """Work that begins, and ends when it is let go or stopped; keeps the order in which it began."""

    def __init__(self, queue: AdaptQueue) -> None:
        self.queue = queue
        self.begun: list[str] = []
        self.began = threading.Semaphore(0)
        self.go: dict[str, threading.Event] = {}
        self.most_in_work = self.in_work = 0
        self.lock = threading.Lock()

    def submit(self, client: str, name: str = "", ticket: JobControl | None = None) -> Future[str]:
        name, ticket = name or client, ticket or JobControl()
        go = self.go[name] = threading.Event()

        def work() -> str:
            with self.lock:
                self.begun.append(name)
                self.in_work += 1
                self.most_in_work = max(self.most_in_work, self.in_work)
            self.began.release()
            assert go.wait(LIMIT_S)
            with self.lock:
                self.in_work -= 1
            ticket.check()
            return name.upper()

        return self.queue.submit(client, work, ticket)

    def let_go(self) -> None:
        for go in self.go.values():
            go.set()


@pytest.fixture
def make() -> Iterator[Callable[[int], Held]]:
    made: list[Held] = []

    def build(running: int) -> Held:
        made.append(Held(AdaptQueue(running)))
        return made[-1]

    yield build
    for held in made:
        held.let_go()
        held.queue.close()


class Stoppable(JobControl):
    """Says when it was stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = threading.Event()

    def stop(self, why: Exception) -> bool:
        in_time = super().stop(why)
        self.stopped.set()
        return in_time


def test_each_gets_its_own_result_or_its_own_error(make: Callable[[int], Held]) -> None:
    queue = make(2).queue

    def fail() -> str:
        raise ZeroDivisionError("own")

    answers = [queue.submit(f"c{number}", partial(int, number), JobControl()) for number in range(5)]
    failed = queue.submit("bad", fail, JobControl())
    assert [answer.result(LIMIT_S) for answer in answers] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError, match="own"):
        failed.result(LIMIT_S)
    assert queue.submit("bad", lambda: "again", JobControl()).result(LIMIT_S) == "again"


def test_never_more_are_in_work_than_allowed_and_never_two_of_one_client(make: Callable[[int], Held]) -> None:
    held = make(2)
    answers = [held.submit("a", f"a{number}") for number in range(3)] + [held.submit("b"), held.submit("c")]
    for _ in range(2):
        assert held.began.acquire(timeout=LIMIT_S)
    assert held.begun == ["a0", "b"]
    assert held.queue.metrics() == {"adapt_waiting": 3, "adapt_in_work": 2, "adapt_ended_total": 0}
    held.let_go()
    assert [answer.result(LIMIT_S) for answer in answers] == ["A0", "A1", "A2", "B", "C"]
    assert held.most_in_work == 2


def test_clients_take_turns_so_that_one_with_many_requests_holds_nobody_up(make: Callable[[int], Held]) -> None:
    held = make(1)
    held.submit("first")
    assert held.began.acquire(timeout=LIMIT_S)
    answers = [held.submit("flood", f"f{number}") for number in range(4)] + [held.submit("a"), held.submit("b")]
    held.let_go()
    for answer in answers:
        answer.result(LIMIT_S)
    assert held.begun == ["first", "f0", "a", "b", "f1", "f2", "f3"]


def test_what_is_taken_back_before_it_began_is_never_begun(make: Callable[[int], Held]) -> None:
    held = make(1)
    first, second, third = held.submit("a"), held.submit("b"), held.submit("c")
    assert held.began.acquire(timeout=LIMIT_S)
    assert second.cancel()
    assert held.queue.metrics()["adapt_waiting"] == 1
    held.let_go()
    assert (first.result(LIMIT_S), third.result(LIMIT_S)) == ("A", "C")
    assert held.begun == ["a", "c"]


def test_what_was_stopped_while_it_waited_is_not_begun(make: Callable[[int], Held]) -> None:
    held, ticket = make(1), JobControl()
    first, second = held.submit("a"), held.submit("b", ticket=ticket)
    assert held.began.acquire(timeout=LIMIT_S)
    ticket.stop(DeadlinePassed("over", 2))
    held.let_go()
    first.result(LIMIT_S)
    with pytest.raises(DeadlinePassed):
        second.result(LIMIT_S)
    assert held.begun == ["a"]


def test_closing_ends_what_was_accepted(make: Callable[[int], Held]) -> None:
    held = make(1)
    answers = [held.submit("a"), held.submit("b"), held.submit("a", "a2")]
    held.let_go()
    held.queue.close(within_s=LIMIT_S)
    assert [answer.result(0) for answer in answers] == ["A", "B", "A2"]
    with pytest.raises(Overloaded, match="stopping"):
        held.submit("c")


def test_what_is_not_done_in_time_when_it_closes_ends_with_a_reason_and_nobody_hangs(
    make: Callable[[int], Held],
) -> None:
    held, ticket = make(1), Stoppable()
    begun, waiting = held.submit("a", ticket=ticket), held.submit("b")
    assert held.began.acquire(timeout=LIMIT_S)
    threading.Thread(target=lambda: held.queue.close(within_s=0), daemon=True).start()
    with pytest.raises(Overloaded, match="stopping"):
        waiting.result(LIMIT_S)
    assert ticket.stopped.wait(LIMIT_S)
    held.let_go()
    with pytest.raises(Overloaded, match="stopping"):
        begun.result(LIMIT_S)


def test_memory_of_what_failed_is_free_before_the_next_one(make: Callable[[int], Held]) -> None:
    class Large:
        """Stands for what an adaptation holds when memory is used up."""

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
