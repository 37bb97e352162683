"""The cache: bounded in bytes, one load however many wait, pinned clients last."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from service.runtime.weight_cache import Key, WeightCache


@dataclass(frozen=True)
class Held:
    size_bytes: int
    name: str = ""


def key(client: str, weights: str = "w") -> Key:
    return client, "m", weights


def fill(cache: WeightCache[Held], *clients: str, size_bytes: int = 10) -> None:
    for client in clients:
        cache.get(key(client), lambda: Held(size_bytes))


def here(cache: WeightCache[Held], *clients: str) -> list[str]:
    return [client for client in clients if cache.held(key(client)) is not None]


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: WeightCache[Held] = WeightCache(30)
    fill(cache, "a", "b", "c")
    assert cache.held(key("a")) is not None
    fill(cache, "d")
    assert here(cache, "a", "b", "c", "d") == ["a", "c", "d"]
    readings = cache.readings()
    assert (readings.loads, readings.evictions, readings.entries, readings.size_bytes) == (4, 1, 3, 30)


def test_what_is_larger_than_the_bound_is_used_and_not_kept() -> None:
    cache: WeightCache[Held] = WeightCache(30)
    fill(cache, "a")
    assert cache.get(key("big"), lambda: Held(31, "big")).name == "big"
    assert here(cache, "a", "big") == ["a"]


def test_pinned_clients_stay_while_there_is_another_to_let_go() -> None:
    cache: WeightCache[Held] = WeightCache(30, pinned=["hot"])
    fill(cache, "hot", *(f"cold-{index}" for index in range(20)))
    assert here(cache, "hot") == ["hot"]
    assert cache.readings().pinned == 1
    for index in range(5):
        cache.get(key("hot", str(index)), lambda: Held(10))
    assert cache.readings().size_bytes <= 30
    assert cache.readings().entries == 3


def test_one_loads_while_the_others_wait() -> None:
    cache: WeightCache[Held] = WeightCache(100)
    loading, go_on, loads = threading.Event(), threading.Event(), []

    def load() -> Held:
        loads.append(threading.get_ident())
        loading.set()
        assert go_on.wait(30)
        return Held(10)

    with ThreadPoolExecutor(4) as pool:
        wanted = [pool.submit(cache.get, key("a"), load) for _ in range(4)]
        assert loading.wait(30)
        go_on.set()
        assert len({id(one.result(30)) for one in wanted}) == 1
    assert len(loads) == 1
    assert (cache.readings().loads, cache.readings().hits) == (1, 3)


def test_a_load_that_fails_keeps_nothing_and_the_next_one_tries_again() -> None:
    cache: WeightCache[Held] = WeightCache(100)

    def fail() -> Held:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get(key("a"), fail)
    assert cache.get(key("a"), lambda: Held(10)).size_bytes == 10
    assert cache.readings().loads == 1


def test_readings_are_named_for_the_metrics() -> None:
    assert WeightCache[Held](1).readings().named("x") == {
        "x_hits_total": 0, "x_loads_total": 0, "x_evictions_total": 0, "x_entries": 0, "x_pinned": 0, "x_bytes": 0
    }  # fmt: skip
