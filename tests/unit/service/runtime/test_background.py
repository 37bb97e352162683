"""Background work: batches in order, bounded, and everything that waits is worked on before the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import structlog

from service.runtime.background import BackgroundQueue, QueueLimits

LONG = 30.0


class Worker:
    """Records batches. It waits in the first one until a test lets it go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        self.raises: Exception | None = None

    def __call__(self, items: Sequence[str]) -> None:
        self.batches.append(list(items))
        self.entered.set()
        assert self.may_go_on.wait(LONG)
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.may_go_on.set()


def queue(worker: Worker, size: int = 10, size_bytes: int = 100, gather_s: float = 0.0) -> BackgroundQueue[str]:
    return BackgroundQueue("test", worker, QueueLimits(size, size_bytes, batch_size=3, gather_s=gather_s))


def test_items_that_arrive_during_a_batch_are_the_next_one(worker: Worker) -> None:
    queued = queue(worker)
    assert queued.put("a", 1)
    assert worker.entered.wait(LONG)
    assert queued.put("b", 1)
    assert queued.put("c", 1)
    worker.may_go_on.set()
    queued.close()
    assert worker.batches == [["a"], ["b", "c"]]
    assert queued.dropped == 0


def test_items_beyond_the_limits_are_dropped_and_counted_by_their_size(worker: Worker) -> None:
    queued = queue(worker, size=4, size_bytes=100)
    assert queued.put("a", 3, 40)
    assert worker.entered.wait(LONG)
    assert not queued.put("too many", 2, 0)
    assert not queued.put("too large", 1, 61)
    assert queued.put("b", 1, 60)
    assert queued.dropped == 3
    worker.may_go_on.set()
    with structlog.testing.capture_logs() as lines:
        queued.close()
    assert worker.batches == [["a"], ["b"]]
    assert [line["dropped"] for line in lines if line["event"] == "background work was dropped"] == [3]


def test_room_is_free_again_after_a_batch(worker: Worker) -> None:
    worker.may_go_on.set()
    queued = queue(worker, size=3)
    for _ in range(3):
        while not queued.put("a", 3):
            continue
    queued.close()
    assert worker.batches == [["a"]] * 3


def test_a_batch_waits_for_more_items_until_it_is_full_or_the_queue_ends(worker: Worker) -> None:
    worker.may_go_on.set()
    queued = queue(worker, gather_s=LONG)
    for item in "abc":
        queued.put(item, 1)
    assert worker.entered.wait(LONG)
    queued.put("d", 1)
    queued.close()
    assert worker.batches == [["a", "b", "c"], ["d"]]


def test_work_that_fails_is_logged_and_counted_and_the_next_batch_runs(worker: Worker) -> None:
    worker.raises = RuntimeError("broken")
    with structlog.testing.capture_logs() as lines:
        queued = queue(worker)
        queued.put("a", 2)
        assert worker.entered.wait(LONG)
        queued.put("b", 1)
        worker.may_go_on.set()
        queued.close()
    assert worker.batches == [["a"], ["b"]]
    assert queued.dropped == 3
    assert "background work failed" in [line["event"] for line in lines]


def test_nothing_is_accepted_after_the_end(worker: Worker) -> None:
    queued = queue(worker)
    queued.close()
    assert not queued.put("a", 1)
    assert worker.batches == []
