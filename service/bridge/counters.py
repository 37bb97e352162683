"""What the bridge has done so far, for `/status`, the status file and the last line that it prints."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class SinkCounters:
    """Counters of one sink.

    Attributes:
        sent: verdicts that the sink has taken.
        dropped: verdicts that were dropped because the queue was full, or because the sink rejected them.
        reconnects: how often the connection was lost or could not be made.
        last_error: reason of the latest of these.
        lag_s: from the picture to the sink, of the latest verdict, in seconds.
    """

    sent: int = 0
    dropped: int = 0
    reconnects: int = 0
    last_error: str = ""
    lag_s: float = 0.0


@dataclass(slots=True)
class Counters:
    """Counters of the bridge. Every picture is judged, dropped or waits; every verdict is sent or dropped by each sink.

    Attributes:
        pictures: pictures that came from the sources.
        judged: pictures with a verdict, including those that Anole rejected.
        rejected: pictures that Anole rejected.
        dropped: pictures that were dropped, unjudged, because the queue was full.
        retries: requests to Anole that failed and were repeated.
        last_error: reason of the latest of these.
        results: verdicts by result.
        reconnects: by source.
        sinks: by sink.
    """

    pictures: int = 0
    judged: int = 0
    rejected: int = 0
    dropped: int = 0
    retries: int = 0
    last_error: str = ""
    results: Counter[str] = field(default_factory=Counter)
    reconnects: Counter[str] = field(default_factory=Counter)
    sinks: dict[str, SinkCounters] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Pictures without a verdict that were not dropped."""
        return self.pictures - self.judged - self.dropped

    def waiting_for(self, sink: SinkCounters) -> int:
        """Verdicts that a sink has neither taken nor dropped."""
        return self.judged - sink.sent - sink.dropped

    def to_json(self) -> dict[str, Any]:
        """Return the counters as JSON data."""
        sinks = {name: {**asdict(sink), "waiting": self.waiting_for(sink)} for name, sink in self.sinks.items()}
        collected = {"results": dict(self.results), "reconnects": dict(self.reconnects), "sinks": sinks}
        numbers = ("pictures", "judged", "rejected", "dropped", "waiting", "retries", "last_error")
        return {**{name: getattr(self, name) for name in numbers}, **collected}

    def summary(self) -> str:
        """Return the counters as one line."""
        sent = "; ".join(
            f"{name}: {sink.sent} sent, {sink.dropped} dropped, {self.waiting_for(sink)} waiting"
            for name, sink in self.sinks.items()
        )
        line = f"{self.pictures} pictures, {self.judged} judged, {self.dropped} dropped, {self.waiting} waiting"
        return f"{line}; {sent}" if sent else line
