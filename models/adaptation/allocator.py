"""A hint to the C library to keep freed memory between inner steps."""

from __future__ import annotations

import torch

_LARGEST_SIGN_BYTES = (32 << 20) - 8192
"""Just below the largest block whose release raises glibc's thresholds (mallopt(3), M_MMAP_THRESHOLD)."""


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MB of freed memory for the next inner step.

    By default glibc returns freed memory to the system and gets it back page by page, with thousands of page faults per
    meta step, until a large block has been allocated and freed. This function allocates and frees one without touching
    its pages. Call it once per process. Other C libraries are not affected. See docs/decisions/0010-allocator-hint.md.
    """
    torch.empty(_LARGEST_SIGN_BYTES, dtype=torch.uint8)
