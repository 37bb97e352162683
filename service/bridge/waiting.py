"""Queues that drop their oldest entry, and waits between attempts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import tenacity

T = TypeVar("T")

LONGEST_WAIT_S: Final = 30.0


class DropOldestQueue(Generic[T]):
    """A queue that drops its oldest entry when it is full.

    Args:
        size: entries at most.
        on_dropped: called with the entry.
    """

    def __init__(self, size: int, on_dropped: Callable[[T], None]) -> None:
        self._entries: deque[T] = deque()
        self._size = size
        self._on_dropped = on_dropped
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: T) -> None:
        """Add an entry."""
        if len(self._entries) == self._size:
            self._on_dropped(self._entries.popleft())
        self._entries.append(entry)
        self._filled.set()

    async def get(self) -> T:
        """Remove the oldest entry and return it. Waits for one."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        return self._entries.popleft()


@dataclass(slots=True)
class Backoff:
    """Waits between attempts: exponential, with jitter, at most `LONGEST_WAIT_S`.

    Attributes:
        first_s: the longest first wait.
        sleep: waits for a number of seconds.
    """

    first_s: float = 0.5
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _failures: int = field(default=0, init=False)

    def reset(self) -> None:
        """Begin again with a short wait."""
        self._failures = 0

    async def wait(self) -> None:
        """Wait longer than the time before."""
        self._failures += 1
        state = tenacity.RetryCallState(tenacity.AsyncRetrying(), None, (), {})
        state.attempt_number = self._failures
        await self.sleep(tenacity.wait_random_exponential(self.first_s, LONGEST_WAIT_S)(state))
