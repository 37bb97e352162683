"""A hint to the C library to keep freed memory between inner steps."""

from __future__ import annotations

import ctypes
import sys

SERVING_BLOCK_BYTES = 32 << 20
"""Largest block that a serving process keeps. All that it keeps is at most twice this."""

TRAINING_BLOCK_BYTES = (1 << 30) - 1
"""Largest block that a training process keeps; twice this is the most that the C library can be asked for."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), from glibc's malloc.h."""


def keep_freed_memory(block_bytes: int = SERVING_BLOCK_BYTES) -> None:
    """Let the C library keep freed memory for the next inner step, in blocks of up to `block_bytes`.

    By default glibc returns freed memory to the system and gets it back page by page, with thousands of page faults per
    meta step. Call it once per process. Other C libraries are not affected. See docs/decisions/0010-allocator-hint.md.

    Args:
        block_bytes: largest block to keep, at most `TRAINING_BLOCK_BYTES`. Up to twice as much stays in the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, block_bytes)
        mallopt(_M_TRIM_THRESHOLD, 2 * block_bytes)
