"""Admission: places and memory for requests, shared between callers.

A limit that one caller uses up alone would keep all others out. So a limit on places is exceeded for callers who have
less than an equal share of it, and a caller gets at most as much memory as would be left over for the others.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from concurrent.futures import Future
from typing import Any

from service.errors import RETRY_BUSY_S, Overloaded
from service.telemetry import Telemetry


class MemoryBudget:
    """Bytes for the bodies of requests and what is unpacked from them. Thread-safe.

    This is the dynamic threshold of Choudhury and Hahne (1998): a caller may hold as much as is free. A single caller
    gets half of the budget, two get a third each, and so on, so that there is always something left for another one.
    A caller that holds nothing may take all that is free.

    Args:
        size_bytes: the budget.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()  # work ends in other threads

    @property
    def used_bytes(self) -> int:
        """Bytes that are held by all callers."""
        return self._held.total()

    def take(self, caller: str, count: int) -> bool:
        """Take bytes for a caller; return False if it may not have as many."""
        with self._lock:
            if self._held[caller] + count > self.size_bytes - self._held.total():
                return False
            self._held[caller] += count
            return True

    def give_back(self, caller: str, count: int) -> None:
        """Return bytes of a caller."""
        with self._lock:
            self._held[caller] -= count
            self._held = +self._held  # without callers that hold nothing


class AdmissionLimit:
    """A limit of one kind of work. Thread-safe.

    When all places are taken, a caller is still admitted up to an equal share of them. Its images are admitted in any
    number if it has none yet, so that a large request does not wait for ever.

    Args:
        work: name of the work, for metrics and messages.
        telemetry: counts rejected requests.
        requests: how many requests may be read, wait or run at the same time.
        images: how many images may wait or run at the same time.
        memory: for the bodies of the requests; None is unlimited.
    """

    def __init__(
        self,
        work: str,
        telemetry: Telemetry,
        requests: int,
        images: float = math.inf,
        memory: MemoryBudget | None = None,
    ) -> None:
        self.work = work
        self.memory = memory
        self._telemetry = telemetry
        self._max_requests = requests
        self._max_images = images
        self._requests: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._lock = threading.Lock()  # work ends in other threads

    @property
    def requests(self) -> int:
        """Requests that are read, wait or run."""
        return self._requests.total()

    @property
    def images(self) -> int:
        """Images that wait or run."""
        return self._images.total()

    def admit(self, caller: str = "") -> Slot:
        """Admit a request of a caller.

        Raises:
            Overloaded: the limit is reached.
        """
        with self._lock:
            if not self._may_add(self._requests, caller, 1, self._max_requests):
                raise self.overloaded()
            if self._images[caller] and not self._may_add(self._images, caller, 1, self._max_images):
                raise self.overloaded()
            self._requests[caller] += 1
        return Slot(self, caller)

    def add_images(self, caller: str, count: int) -> None:
        """Count the images of an admitted request.

        Raises:
            Overloaded: there are too many images together with those of other requests.
        """
        with self._lock:
            if self._images[caller] and not self._may_add(self._images, caller, count, self._max_images):
                raise self.overloaded()
            self._images[caller] += count

    def release(self, caller: str, images: int) -> None:
        """Release a request and its images."""
        with self._lock:
            self._requests[caller] -= 1
            self._images[caller] -= images
            self._requests, self._images = +self._requests, +self._images  # without callers that hold nothing

    def overloaded(self, reason: str | None = None) -> Overloaded:
        """Count a rejected request and return its error."""
        self._telemetry.refused.labels(self.work).inc()
        reason = reason or f"too many requests to {self.work} are waiting"
        return Overloaded(f"{reason}; try again in {RETRY_BUSY_S} s", RETRY_BUSY_S)

    def _may_add(self, held: Counter[str], caller: str, count: int, limit: float) -> bool:
        """Whether there is room, or the caller stays within an equal share of the limit."""
        callers = len(self._requests.keys() | {caller})
        return held.total() + count <= limit or held[caller] + count <= limit / callers


class Slot:
    """The place of one admitted request in its `AdmissionLimit`.

    Attributes:
        caller: who sent the request.
    """

    def __init__(self, limit: AdmissionLimit, caller: str) -> None:
        self.caller = caller
        self._limit = limit
        self._images = 0
        self._bytes = 0
        self._work: Future[Any] | None = None

    def add_images(self, count: int) -> None:
        """Count the images that the request brings. Raises Overloaded."""
        self._limit.add_images(self.caller, count)
        self._images += count

    def take_memory(self, size_bytes: int) -> None:
        """Take memory for what the request is about to bring, before it does. Raises Overloaded."""
        memory = self._limit.memory
        if memory is None:
            return
        if not memory.take(self.caller, size_bytes):
            raise self._limit.overloaded(
                f"the request needs {size_bytes:,} bytes; requests that wait or run take {memory.used_bytes:,} of "
                f"{memory.size_bytes:,} bytes of memory"
            )
        self._bytes += size_bytes

    def give_back_memory_beyond(self, size_bytes: int) -> None:
        """Give back memory that was taken for a body of unknown size, which has arrived and has so many bytes."""
        spare = self._bytes - size_bytes
        if self._limit.memory is not None and spare > 0:
            self._limit.memory.give_back(self.caller, spare)
            self._bytes = size_bytes

    def hold_until_done(self, work: Future[Any]) -> None:
        """Keep the slot until `work` has ended or was cancelled, even if the request is answered before."""
        self._work = work

    def end_request(self) -> None:
        """Release the slot now, or when its work has ended."""
        if self._work is None:
            self._release()
        else:
            self._work.add_done_callback(lambda _: self._release())

    def _release(self) -> None:
        self._limit.release(self.caller, self._images)
        if self._limit.memory is not None:
            self._limit.memory.give_back(self.caller, self._bytes)
