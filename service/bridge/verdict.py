"""What goes through the bridge: pictures from sources, and verdicts to sinks."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Result = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a part.

    Attributes:
        source: name of the source.
        name: file name or the like, for people.
        content: the encoded image.
        id: unique; the same when the picture is sent again.
        taken_at: UTC.
        received_s: when the bridge got it, in monotonic seconds.
    """

    source: str
    name: str
    content: bytes = field(repr=False)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    taken_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    received_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What Anole said about a picture.

    Attributes:
        label: the most probable class.
        confidence: its probability.
        known: False if the picture looks like none of the classes.
        classes: all classes, sorted.
        version: the version that predicted.
    """

    label: str
    confidence: float
    known: bool
    classes: tuple[str, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What sinks get about a picture.

    Attributes:
        picture: the picture.
        client: client of Anole that judged it.
        number: 1, 2, 3 … since the start of the bridge.
        result: of this picture.
        state: of the source: the last result that came often enough in a row (`rules.debounce`).
        class_number: number of the class for a PLC; 0 without a class.
        judgement: what Anole said; None if it rejected the picture.
        error: why it was rejected; empty otherwise.
    """

    picture: Picture
    client: str
    number: int
    result: Result
    state: Result
    class_number: int
    judgement: Judgement | None
    error: str = ""

    @property
    def label(self) -> str:
        """The class, or an empty text."""
        return self.judgement.label if self.judgement else ""

    @property
    def confidence(self) -> float:
        """Probability of the class, or 0."""
        return self.judgement.confidence if self.judgement else 0.0

    @property
    def version(self) -> int:
        """The version that predicted, or 0."""
        return self.judgement.version if self.judgement else 0

    def fields(self) -> dict[str, Any]:
        """Return the verdict as JSON data. The names are those of every sink."""
        return {
            "id": self.picture.id,
            "number": self.number,
            "time": self.picture.taken_at.isoformat(timespec="milliseconds"),
            "source": self.picture.source,
            "name": self.picture.name,
            "result": self.result,
            "state": self.state,
            "label": self.label,
            "confidence": round(self.confidence, 6),
            "known": self.judgement.known if self.judgement else False,
            "class_number": self.class_number,
            "client": self.client,
            "version": self.version,
            "error": self.error,
        }
