"""Damaged images against one decoder process: each is decoded or rejected, and the process does not grow."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

from models.errors import ImageRejected
from models.images.decoding import CANONICAL_PIXELS, DecodeLimits
from service.runtime.decoder_pool import DecoderPool, PoolConfig
from service.settings import child_environment
from tests.fuzz.conftest import cases, resident_mib, seed
from tests.mutations import damaged_image, image_corpus

LIMITS = DecodeLimits()
TENTHS = 10
GROWTH_MIB = 4.0
"""In most tenths of the images. A leak grows in all of them; one large image can raise the process once, for good."""


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
    counts = run_cases(pool, generator, corpus, count // TENTHS)
    processes = pool.process_ids()
    sizes_mib = [sum(resident_mib(pid) for pid in processes)]
    for _ in range(TENTHS - 1):
        counts += run_cases(pool, generator, corpus, count // TENTHS)
        sizes_mib.append(sum(resident_mib(pid) for pid in pool.process_ids()))
    print_line(
        f"{counts.total():,} damaged images: {dict(counts)}; MiB of the process after each tenth: "
        f"{', '.join(f'{size:.0f}' for size in sizes_mib)}"
    )
    assert {"image", "ImageCorrupt"} <= counts.keys()
    assert pool.process_ids() == processes
    assert pool.metrics()["decoder_processes_lost_total"] == 0
    assert statistics.median(after - before for before, after in pairwise(sizes_mib)) < GROWTH_MIB
