"""A queue with one thread that works on what was put, in batches, beside the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog

Item = TypeVar("Item")

WARN_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What a queue holds, and when a batch begins.

    Attributes:
        size: total size of the items that wait or are worked on.
        size_bytes: their total number of bytes.
        batch_size: a batch begins at once when items of this total size wait.
        gather_s: otherwise, how many seconds after the first of them was put.
    """

    size: int
    size_bytes: int
    batch_size: int
    gather_s: float = 0.0


class BackgroundQueue(Generic[Item]):
    """Works on items in order, in a thread. Putting never waits: an item that does not fit is dropped and counted.

    Args:
        name: of the thread and in log lines.
        work: gets all items that wait. If it raises, they are dropped.
        limits: what the queue holds.
    """

    def __init__(self, name: str, work: Callable[[Sequence[Item]], None], limits: QueueLimits) -> None:
        self._name = name
        self._work = work
        self._limits = limits
        self._changed = threading.Condition()
        self._waiting: list[tuple[Item, int, int]] = []
        self._size = self._size_bytes = self._dropped = 0
        self._warned, self._warned_at_s = 0, -WARN_EVERY_S
        self._closed = False
        self._log = structlog.get_logger("anole.background")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Total size of the items that were dropped since the start."""
        return self._dropped

    def put(self, item: Item, size: int, size_bytes: int = 0) -> bool:
        """Queue an item, and return whether there was room for it."""
        with self._changed:
            too_many = self._size + size > self._limits.size
            if self._closed or too_many or self._size_bytes + size_bytes > self._limits.size_bytes:
                self._dropped += size
                return False
            self._waiting.append((item, size, size_bytes))
            self._size += size
            self._size_bytes += size_bytes
            if len(self._waiting) == 1 or self._size >= self._limits.batch_size:
                self._changed.notify()
            return True

    def close(self) -> None:
        """Work on what waits, then stop. Items that are put later are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            size, size_bytes = sum(entry[1] for entry in batch), sum(entry[2] for entry in batch)
            try:
                self._work([entry[0] for entry in batch])
            except Exception:  # noqa: BLE001 - it is logged, and the thread goes on with the next batch
                self._log.exception("background work failed", queue=self._name, dropped=size)
                with self._changed:
                    self._dropped += size
            with self._changed:
                self._size -= size
                self._size_bytes -= size_bytes
            self._warn()

    def _next_batch(self) -> list[tuple[Item, int, int]]:
        """Wait for the next batch; empty once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._changed.wait_for(lambda: self._closed or self._size >= self._limits.batch_size, self._limits.gather_s)
            batch, self._waiting = self._waiting, []
            return batch

    def _warn(self) -> None:
        """Log how much was dropped since the last warning, at most once a minute."""
        dropped, now_s = self._dropped, time.monotonic()
        if dropped > self._warned and now_s - self._warned_at_s >= WARN_EVERY_S:
            self._log.warning("background work was dropped", queue=self._name, dropped=dropped - self._warned)
            self._warned, self._warned_at_s = dropped, now_s
