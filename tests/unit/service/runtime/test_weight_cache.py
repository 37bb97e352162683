"""The weight cache: bounded in bytes, least recently used first, one load per missing version."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from models.inference.predict import ServingWeights
from service.domain.version import ServedVersion
from service.runtime.weight_cache import WeightCache

WAIT_S = 30


def version(client: str, temperature: float | None = None) -> ServedVersion:
    return ServedVersion(client, 1, ("a", "b"), "model", "m" * 64, "w" * 64, None, temperature)


def weights(size_bytes: int = 10) -> ServingWeights:
    return ServingWeights({}, None, size_bytes)


def fill(cache: WeightCache, *clients: str) -> None:
    for client in clients:
        cache.get(version(client), weights)


def held(cache: WeightCache, *clients: str) -> list[str]:
    return [client for client in clients if cache.held(version(client)) is not None]


def get_in_two_threads(
    cache: WeightCache, load: Callable[[], ServingWeights]
) -> tuple[Future[ServingWeights], Future[ServingWeights]]:
    """Request one version twice, the second time while the first load is running."""
    loading, finish = threading.Event(), threading.Event()

    def slow_load() -> ServingWeights:
        loading.set()
        assert finish.wait(WAIT_S)
        return load()

    def second() -> ServingWeights:
        finish.set()
        return cache.get(version("a"), load)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, version("a"), slow_load)
        assert loading.wait(WAIT_S)
        return first, pool.submit(second)


def test_the_least_recently_used_entry_is_evicted_first() -> None:
    cache = WeightCache(30)
    fill(cache, "a", "b", "c")
    assert cache.held(version("a")) is not None
    fill(cache, "d")
    assert held(cache, "a", "b", "c", "d") == ["a", "c", "d"]
    assert cache.metrics() == {
        "weight_cache_hits_total": 4,
        "weight_cache_loads_total": 4,
        "weight_cache_evictions_total": 1,
        "weight_cache_entries": 3,
        "weight_cache_bytes": 30,
    }


def test_an_entry_larger_than_the_limit_is_returned_but_not_kept() -> None:
    cache = WeightCache(30)
    fill(cache, "a")
    assert cache.get(version("big"), lambda: weights(31)).size_bytes == 31
    assert held(cache, "a", "big") == ["a"]


def test_versions_with_the_same_weights_and_another_temperature_are_different_entries() -> None:
    cache = WeightCache(30)
    cache.get(version("a"), lambda: weights(10))
    assert cache.get(version("a", 1.5), lambda: weights(11)).size_bytes == 11
    assert cache.metrics()["weight_cache_bytes"] == 21


def test_concurrent_requests_for_one_version_load_it_once() -> None:
    cache = WeightCache(100)
    loading, finish, loads = threading.Event(), threading.Event(), []

    def load() -> ServingWeights:
        loads.append(threading.get_ident())
        loading.set()
        assert finish.wait(WAIT_S)
        return weights()

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(cache.get, version("a"), load) for _ in range(4)]
        assert loading.wait(WAIT_S)
        finish.set()
        assert len({id(one.result(WAIT_S)) for one in results}) == 1
    assert len(loads) == 1
    metrics = cache.metrics()
    assert (metrics["weight_cache_loads_total"], metrics["weight_cache_hits_total"]) == (1, 3)
    assert metrics["weight_cache_bytes"] == 10


def test_a_failed_load_keeps_nothing_and_the_next_request_loads_again() -> None:
    cache = WeightCache(100)

    def fail() -> ServingWeights:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get(version("a"), fail)
    assert cache.get(version("a"), weights).size_bytes == 10
    assert cache.metrics()["weight_cache_loads_total"] == 1


def test_a_failed_load_with_a_waiting_request_leaks_no_bytes() -> None:
    cache = WeightCache(100)

    def fail() -> ServingWeights:
        raise OSError("gone")

    for result in get_in_two_threads(cache, fail):
        assert isinstance(result.exception(WAIT_S), OSError)
    assert cache.metrics()["weight_cache_bytes"] == 0
    fill(cache, "a")
    assert cache.metrics()["weight_cache_bytes"] == 10


def test_loading_again_after_an_eviction_counts_the_bytes_once() -> None:
    cache = WeightCache(10)
    for result in get_in_two_threads(cache, weights):
        assert result.result(WAIT_S).size_bytes == 10
    for _ in range(3):
        fill(cache, "b", "a")
    assert cache.metrics()["weight_cache_bytes"] == 10
    assert held(cache, "a", "b") == ["a"]
