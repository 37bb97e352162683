"""Waits for a moment without requests, so that background work delays none."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any


class InFlight:
    """Counts work that is in flight. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def add(self, work: Future[Any]) -> None:
        """Count work until it has ended."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()
        work.add_done_callback(lambda _: self._end())

    def wait_until_quiet(self, quiet_s: float, timeout_s: float) -> bool:
        """Wait until nothing has been in flight for `quiet_s`, and return whether that was within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._changed.wait_for(lambda: not self._count, deadline - time.monotonic()):
                if not self._changed.wait_for(lambda: self._count, quiet_s):
                    return True
        return False

    def _end(self) -> None:
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()
