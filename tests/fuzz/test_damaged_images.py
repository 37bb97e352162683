"""Damaged images against one decoder process: each is decoded or rejected, and the process does not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from models.errors import ImageRejected
from models.images.decoding import CANONICAL_PIXELS, DecodeLimits
from service.runtime.decoder_pool import DecoderPool, PoolConfig
from service.settings import child_environment
from tests.fuzz.conftest import cases, resident_mib, seed
from tests.mutations import damaged_image, image_corpus

LIMITS = DecodeLimits()
GROWTH_MIB = 48.0


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    """A single process that is never replaced, so that leaks add up."""
    pool = DecoderPool(LIMITS, PoolConfig(1, images_each=10**9), child_environment())
    yield pool
    pool.close()


def run_cases(pool: DecoderPool, generator: np.random.Generator, corpus: list[bytes], count: int) -> Counter[str]:
    """Try `count` images and count the outcomes."""
    counts: Counter[str] = Counter()
    for _ in range(count):
        content = damaged_image(generator, corpus)
        try:
            image = pool.decode(content)
        except ImageRejected as rejected:
            counts[type(rejected).__name__] += 1
        else:
            counts["image"] += 1
            assert image.shape[0] in (1, 3)
            assert image[0].numel() <= CANONICAL_PIXELS
    return counts


@pytest.mark.slow
def test_every_damaged_image_is_decoded_or_rejected_without_losing_a_process(
    pool: DecoderPool, print_line: Callable[[str], None]
) -> None:
    count, generator = cases("images", 2000), np.random.default_rng(seed())
    corpus = image_corpus(generator)
    for content in corpus:
        pool.decode(content)
    counts = run_cases(pool, generator, corpus, count // 2)
    processes = pool.process_ids()
    before_mib = sum(resident_mib(pid) for pid in processes)
    counts += run_cases(pool, generator, corpus, count - count // 2)
    grown_mib = sum(resident_mib(pid) for pid in pool.process_ids()) - before_mib
    print_line(f"{counts.total():,} damaged images: {dict(counts)}; the process grew by {grown_mib:.1f} MiB")
    assert {"image", "ImageCorrupt"} <= counts.keys()
    assert pool.process_ids() == processes
    assert pool.metrics()["decoder_processes_lost_total"] == 0
    assert grown_mib < GROWTH_MIB
