"""A least recently used cache of serving weights, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from models.inference.predict import ServingWeights
from service.domain.version import ServedVersion

_Key = tuple[str, str, str, float | None]


class WeightCache:
    """Serving weights of recently used versions. Thread-safe.

    Entries are keyed by the content that they are made from (client, digests and temperature), so an entry is never
    stale. Concurrent requests for the same missing version load it once.

    Args:
        limit_bytes: most bytes held. A larger entry is returned but not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[_Key, ServingWeights] = OrderedDict()
        self._loading: dict[_Key, Future[ServingWeights]] = {}
        self._lock = threading.Lock()
        self._size_bytes = self._hits = self._loads = self._evictions = 0

    def held(self, version: ServedVersion) -> ServingWeights | None:
        """Return the weights if they are in the cache, without blocking on a load."""
        with self._lock:
            return self._find(_key(version))

    def get(self, version: ServedVersion, load: Callable[[], ServingWeights]) -> ServingWeights:
        """Return the weights from the cache, or from `load` if they are not there.

        Raises:
            Any error that `load` raises. Callers that wait for the same load get the same error; nothing is kept, and
            the next call loads again.
        """
        key = _key(version)
        with self._lock:
            found = self._find(key)
            if found is not None:
                return found
            loading = self._loading.get(key)
            first = loading is None
            if loading is None:
                loading = self._loading[key] = Future()
        if not first:
            return self._wait(loading)
        try:
            entry = load()
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            loading.set_exception(error)
            raise
        with self._lock:
            del self._loading[key]
            self._keep(key, entry)
        loading.set_result(entry)
        return entry

    def metrics(self) -> dict[str, float]:
        """Return counters since the start and what is held now."""
        with self._lock:
            return {
                "weight_cache_hits_total": self._hits,
                "weight_cache_loads_total": self._loads,
                "weight_cache_evictions_total": self._evictions,
                "weight_cache_entries": len(self._entries),
                "weight_cache_bytes": self._size_bytes,
            }

    def _wait(self, loading: Future[ServingWeights]) -> ServingWeights:
        entry = loading.result()
        with self._lock:
            self._hits += 1
        return entry

    def _find(self, key: _Key) -> ServingWeights | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            self._hits += 1
        return entry

    def _keep(self, key: _Key, entry: ServingWeights) -> None:
        self._loads += 1
        if entry.size_bytes > self._limit_bytes:
            return
        self._entries[key] = entry
        self._size_bytes += entry.size_bytes
        while self._size_bytes > self._limit_bytes:
            _, evicted = self._entries.popitem(last=False)
            self._size_bytes -= evicted.size_bytes
            self._evictions += 1


def _key(version: ServedVersion) -> _Key:
    """Include the temperature: versions with the same stored weights may be calibrated differently."""
    return version.client, version.meta_model_digest, version.weights_digest, version.temperature
