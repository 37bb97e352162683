"""Options of a bridge that are no sources, sinks or rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.bridge.verdict import Verdict
from service.bridge.waiting import Backoff


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """Options of a bridge.

    Attributes:
        queue: pictures that may wait for Anole.
        on_verdict: called with every verdict.
        status_file: file that the counters are written to, every second.
        backoff: makes the waits between attempts.
        check_every_s: how often a sink without verdicts checks its connection, in seconds.
    """

    queue: int = 100
    on_verdict: Callable[[Verdict], object] = lambda _verdict: None
    status_file: Path | None = None
    backoff: Callable[[], Backoff] = Backoff
    check_every_s: float = 5.0
