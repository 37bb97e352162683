"""Folded weights of recently used versions, bounded in bytes, keyed by what they are and never by an alias.

A key names immutable content, so nothing here can be stale. One thread loads a missing entry while others that want
the same one wait for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from models.weights import Weights

Key = tuple[str, str, str]
"""Client, digest of the meta-model, digest of the version's weights."""


@dataclass(frozen=True, slots=True)
class CacheReadings:
    """Counters since the start, and what is held now."""

    hits: int
    loads: int
    evictions: int
    entries: int
    size_bytes: int


class WeightCache:
    """Least recently used entries go first when the bound is passed.

    Args:
        limit_bytes: most bytes held; an entry larger than that is used once and not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[Key, tuple[Weights, int]] = OrderedDict()
        self._loading: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()
        self._size_bytes = self._hits = self._loads = self._evictions = 0

    def get(self, key: Key, load: Callable[[], Weights]) -> Weights:
        """The entry of that key, made by `load` if it is not held; what `load` raises is raised and nothing kept."""
        with self._lock:
            found = self._find(key)
            gate = self._loading.setdefault(key, threading.Lock()) if found is None else None
        if found is not None or gate is None:
            return found or {}
        with gate:
            with self._lock:
                found = self._find(key)
            if found is not None:
                return found
            try:
                weights = load()
                self._keep(key, weights)
            finally:
                with self._lock:
                    self._loading.pop(key, None)
        return weights

    def readings(self) -> CacheReadings:
        """Counters as they stand."""
        with self._lock:
            return CacheReadings(self._hits, self._loads, self._evictions, len(self._entries), self._size_bytes)

    def _find(self, key: Key) -> Weights | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return entry[0]

    def _keep(self, key: Key, weights: Weights) -> None:
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        with self._lock:
            self._loads += 1
            if size_bytes > self._limit_bytes:
                return
            self._entries[key] = (weights, size_bytes)
            self._size_bytes += size_bytes
            while self._size_bytes > self._limit_bytes:
                _, (_, freed_bytes) = self._entries.popitem(last=False)
                self._size_bytes -= freed_bytes
                self._evictions += 1
