"""A queue that callers share equally, however much each of them puts in.

This is weighted fair queueing, in the self-clocked form of Golestani (1994), with the same weight for every caller. A
caller's work gets a tag: where its last work ends, plus the size of the new one, on a clock that advances with the work
that is taken out. The lowest tag is next. So small work passes the large batches of others, and a caller with a long
backlog delays only itself.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class _Entry(NamedTuple):
    tag: int
    arrival: int
    caller: str
    item: object


class FairQueue(Generic[Item]):
    """Items of several callers. Those of one caller stay in order. Not thread-safe."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._arrivals = itertools.count()
        self._ends: dict[str, int] = {}
        self._now = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Item]:
        """Iterate over the items, the next one first."""
        return iter([entry.item for entry in self._entries])  # type: ignore[misc]

    def push(self, item: Item, caller: str, size: int = 1) -> None:
        """Add an item of a caller."""
        tag = max(self._now, self._ends.get(caller, 0)) + size
        self._ends[caller] = tag
        bisect.insort(self._entries, _Entry(tag, next(self._arrivals), caller, item))

    def pop(self) -> Item:
        """Take out the next item. Raises IndexError if there is none."""
        return self._taken(self._entries[0])

    def take(self, item: Item) -> None:
        """Take out an item that may not be the next one."""
        self._taken(next(entry for entry in self._entries if entry.item is item))

    def discard(self, item: Item) -> None:
        """Remove an item that is no longer needed, if it is there, and do not count it as work of its caller."""
        removed = next((entry for entry in self._entries if entry.item is item), None)
        if removed is not None:
            self._entries.remove(removed)
            left = [entry.tag for entry in self._entries if entry.caller == removed.caller]
            self._ends[removed.caller] = max(left, default=self._now)
            self._forget(removed.caller)

    def clear(self) -> list[Item]:
        """Take out everything, in order."""
        items = list(self)
        self._entries.clear()
        self._ends.clear()
        return items

    def _taken(self, entry: _Entry) -> Item:
        self._entries.remove(entry)
        self._now = max(self._now, entry.tag)
        self._forget(entry.caller)
        return entry.item  # type: ignore[return-value]

    def _forget(self, caller: str) -> None:
        """Drop what is known of a caller whose work is all taken."""
        if self._ends.get(caller, 0) <= self._now:
            self._ends.pop(caller, None)
