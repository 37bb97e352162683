"""How the process keeps memory between steps. It refuses to know what is kept in it."""

from __future__ import annotations

import torch

_LARGEST_SIGN_BYTES = (32 << 20) - 8192
"""Just below the largest block that moves glibc's thresholds when it is freed (mallopt(3), M_MMAP_THRESHOLD)."""


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MB of what an inner step frees for the next one to use.

    glibc hands freed memory back to the system and takes it again page by page, thousands of page faults a meta step,
    until it has seen a large block come and go. This shows it one, of which no page is touched; once a process will do.
    Other C libraries do not mind.
    """
    torch.empty(_LARGEST_SIGN_BYTES, dtype=torch.uint8)
