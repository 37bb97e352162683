"""Features of samples are computed once, and the oldest are dropped first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from service.runtime.feature_cache import FeatureCache

VIEWS, COUNT = 4, 8
SAMPLE_BYTES = VIEWS * COUNT * 4


def features(name: str) -> Tensor:
    """Return features of a sample, (views, count)."""
    return torch.arange(VIEWS * COUNT, dtype=torch.float32).view(VIEWS, COUNT) + 100 * ord(name)


def expected(names: str) -> Tensor:
    return torch.stack([features(name) for name in names], 1)


def recording(names: str, computed: list[str]) -> Callable[[list[int]], Tensor]:
    """Return a function that computes the features and records the names of the samples."""

    def compute(missing: list[int]) -> Tensor:
        computed.append("".join(names[index] for index in missing))
        return expected(computed[-1])

    return compute


def get(cache: FeatureCache, names: str) -> list[str]:
    """Check the features of samples; return the names of those that were computed, one entry per call."""
    computed: list[str] = []
    assert torch.equal(cache.get(names, recording(names, computed)), expected(names))
    return computed


def test_only_missing_samples_are_computed() -> None:
    cache = FeatureCache(10 * SAMPLE_BYTES)
    assert get(cache, "abc") == ["abc"]
    assert get(cache, "bxcay") == ["xy"]
    assert get(cache, "yab") == []


def test_the_samples_used_longest_ago_are_dropped_first() -> None:
    cache = FeatureCache(2 * SAMPLE_BYTES)
    get(cache, "ab")
    get(cache, "a")
    get(cache, "c")
    assert get(cache, "a") == []
    assert get(cache, "b") == ["b"]


def test_more_samples_than_the_limit_are_returned_but_not_all_kept() -> None:
    cache = FeatureCache(2 * SAMPLE_BYTES)
    assert get(cache, "abc") == ["abc"]
    assert get(cache, "abc") == ["a"]


def test_a_failed_computation_keeps_nothing() -> None:
    cache = FeatureCache(10 * SAMPLE_BYTES)

    def fail(_missing: list[int]) -> Tensor:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        cache.get("ab", fail)
    assert get(cache, "ab") == ["ab"]
