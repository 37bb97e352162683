"""Where the time of a piece of work goes, on a monotonic clock. Knows nothing of the work."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Stopwatch:
    """Seconds of each part of the work, on a monotonic clock."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._began = self._last = time.monotonic()
        self._laps = dict.fromkeys(parts, 0.0)

    def lap(self, part: str) -> None:
        """Count the time since the last lap as that part's."""
        now = time.monotonic()
        self._laps[part] += now - self._last
        self._last = now

    def laps(self) -> dict[str, float]:
        """Seconds by part, and in total since the start."""
        return {**self._laps, "total": time.monotonic() - self._began}
