"""The prediction log: what a version said about an image. It never holds pixels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a version said about an image.

    Attributes:
        version: number of the version.
        label: most probable class.
        confidence: its probability.
        unknown_score: how little the image looks like any of the classes; None if the version has no such score.
        verdict: "known" or "unknown".
    """

    version: int
    label: str
    confidence: float
    unknown_score: float | None
    verdict: Literal["known", "unknown"]


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """An entry of the log: one image of one request.

    Attributes:
        client: client name.
        client_created_at: when the client was created, UTC. With its name it tells the client from an earlier one.
        at: when the service had predicted, UTC.
        image_digest: SHA-256 (hex) of the file that was sent.
        part: the physical part that it shows, as the sender named it, or None.
        station: where it was taken, as the sender named it, or None.
        request_id: of the HTTP request, or None.
        judgement: what the request was answered.
        candidate: what the version of the alias `candidate` said in the background, or None.
        id: 1, 2, 3 … in the order in which entries were stored; 0 before that.
    """

    client: str
    client_created_at: datetime
    at: datetime
    image_digest: str
    part: str | None
    station: str | None
    request_id: str | None
    judgement: Judgement
    candidate: Judgement | None = None
    id: int = 0


@dataclass(frozen=True, slots=True)
class PredictionQuery:
    """Which entries of a client to return, newest first; None is any.

    Attributes:
        part: name of a part.
        image: SHA-256 (hex) of a file.
        station: name of a station.
        label: predicted class.
        verdict: "known" or "unknown".
        version: number of the version that answered.
        candidate: number of the version that judged in the background.
        changed: whether the candidate would have changed the answer; see `Comparison`.
        since: made no earlier.
        until: made earlier.
        after: id of the entry that they follow.
        limit: number of entries at most.
    """

    part: str | None = None
    image: str | None = None
    station: str | None = None
    label: str | None = None
    verdict: Literal["known", "unknown"] | None = None
    version: int | None = None
    candidate: int | None = None
    changed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a candidate judged the images that a version answered.

    An answer would have changed if the verdict differs, or if both are "known" and the labels differ.

    Attributes:
        images: number of images that both judged.
        agreeing: number of those whose answer would not have changed.
        unknown: number of those with the verdict "unknown" of the version.
        candidate_unknown: the same of the candidate.
    """

    images: int
    agreeing: int
    unknown: int
    candidate_unknown: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long entries are kept.

    Attributes:
        days: entries that are older are deleted.
        rows: number of entries of all clients together; the oldest are deleted first.
    """

    days: int
    rows: int
