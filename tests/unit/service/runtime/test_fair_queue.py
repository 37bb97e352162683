"""The fair queue: callers get equal shares by size, and small work is not held up by large batches of others."""

from __future__ import annotations

from collections import Counter

import pytest

from service.runtime.fair_queue import FairQueue


def drained(queue: FairQueue[str]) -> str:
    return "".join(queue.pop() for _ in range(len(queue)))


def test_the_items_of_one_caller_stay_in_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for item, size in [("a", 64), ("b", 1), ("c", 8), ("d", 1)]:
        queue.push(item, "caller", size)
    assert list(queue) == ["a", "b", "c", "d"]
    assert drained(queue) == "abcd"


def test_small_work_passes_the_waiting_batches_of_another_caller() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in "ABC":
        queue.push(item, "batches", 64)
    for item in "abc":
        queue.push(item, "singles", 1)
    assert drained(queue) == "abcABC"


def test_callers_get_equal_shares_by_size() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(40):
        queue.push("x", "small", 1)
        queue.push("y", "large", 4)
    taken = Counter(queue.pop() for _ in range(25))
    assert taken == {"x": 20, "y": 5}


def test_a_caller_that_was_idle_does_not_get_the_time_that_it_did_not_use() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push("x", "busy")
    for _ in range(50):
        queue.pop()
    for _ in range(50):
        queue.push("y", "idle until now")
    assert Counter(queue.pop() for _ in range(20)) == {"x": 10, "y": 10}


def test_discarded_work_does_not_count_against_its_caller() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("gone", "a", 1000)
    queue.push("kept", "b", 10)
    queue.discard("gone")
    queue.discard("gone")
    queue.push("next", "a", 5)
    assert drained(queue) == "nextkept"


def test_an_item_can_be_taken_out_of_turn_and_counts_as_work_of_its_caller() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("next", "taken"):
        queue.push(item, item)
    queue.take("taken")
    queue.push("again", "taken")
    assert drained(queue) == "nextagain"


def test_a_cleared_queue_is_empty() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("x", "a")
    assert queue.clear() == ["x"]
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()
