"""Measures the seconds that each part of a piece of work takes."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Stopwatch:
    """Seconds by part, on a monotonic clock."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._started = self._last = time.monotonic()
        self._laps = dict.fromkeys(parts, 0.0)

    def lap(self, part: str) -> None:
        """Add the time since the last lap to `part`."""
        now = time.monotonic()
        self._laps[part] += now - self._last
        self._last = now

    def laps(self) -> dict[str, float]:
        """Return seconds by part, and the total since the start."""
        return {**self._laps, "total": time.monotonic() - self._started}
