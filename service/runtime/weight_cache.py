"""Weights of recently used versions, bounded in bytes, keyed by what they are and never by an alias.

A key names immutable content, so nothing here can be stale. One thread loads a missing entry while others that want
the same one wait for it. What an entry is, ready to compute with or packed, the cache does not know.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Key = tuple[str, str, str]
"""Client, digest of the meta-model, and what else makes the weights what they are."""


class Sized(Protocol):
    """Anything that knows what it holds in memory."""

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        ...


Entry = TypeVar("Entry", bound=Sized)


@dataclass(frozen=True, slots=True)
class CacheReadings:
    """Counters since the start, and what is held now."""

    hits: int
    loads: int
    evictions: int
    entries: int
    pinned: int
    size_bytes: int

    def named(self, prefix: str) -> dict[str, float]:
        """For the metrics, each name beginning with `prefix`."""
        return {
            f"{prefix}_hits_total": self.hits,
            f"{prefix}_loads_total": self.loads,
            f"{prefix}_evictions_total": self.evictions,
            f"{prefix}_entries": self.entries,
            f"{prefix}_pinned": self.pinned,
            f"{prefix}_bytes": self.size_bytes,
        }


class WeightCache(Generic[Entry]):
    """Least recently used entries go first when the bound is passed, those of pinned clients last.

    Args:
        limit_bytes: most bytes held; an entry larger than that is used once and not kept.
        pinned: clients whose entries stay while there is another one to let go.
    """

    def __init__(self, limit_bytes: int, pinned: Collection[str] = ()) -> None:
        self._limit_bytes = limit_bytes
        self._pinned_clients = frozenset(pinned)
        self._common: OrderedDict[Key, Entry] = OrderedDict()
        self._pinned: OrderedDict[Key, Entry] = OrderedDict()
        self._loading: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()
        self._size_bytes = self._hits = self._loads = self._evictions = 0

    def held(self, key: Key) -> Entry | None:
        """The entry of that key if it is here, without waiting for anybody."""
        with self._lock:
            return self._find(key)

    def get(self, key: Key, load: Callable[[], Entry]) -> Entry:
        """The entry of that key, made by `load` if it is not held; what `load` raises is raised and nothing kept."""
        with self._lock:
            found = self._find(key)
            if found is not None:
                return found
            gate = self._loading.setdefault(key, threading.Lock())
        with gate:
            found = self.held(key)
            if found is not None:
                return found
            try:
                entry = load()
                self._keep(key, entry)
            finally:
                with self._lock:
                    self._loading.pop(key, None)
        return entry

    def readings(self) -> CacheReadings:
        """Counters as they stand."""
        with self._lock:
            return CacheReadings(
                hits=self._hits,
                loads=self._loads,
                evictions=self._evictions,
                entries=len(self._common) + len(self._pinned),
                pinned=len(self._pinned),
                size_bytes=self._size_bytes,
            )

    def _shelf(self, key: Key) -> OrderedDict[Key, Entry]:
        return self._pinned if key[0] in self._pinned_clients else self._common

    def _find(self, key: Key) -> Entry | None:
        shelf = self._shelf(key)
        entry = shelf.get(key)
        if entry is not None:
            shelf.move_to_end(key)
            self._hits += 1
        return entry

    def _keep(self, key: Key, entry: Entry) -> None:
        with self._lock:
            self._loads += 1
            if entry.size_bytes > self._limit_bytes:
                return
            self._shelf(key)[key] = entry
            self._size_bytes += entry.size_bytes
            while self._size_bytes > self._limit_bytes:
                _, freed = (self._common or self._pinned).popitem(last=False)
                self._size_bytes -= freed.size_bytes
                self._evictions += 1
