"""What the service answers, as frozen dataclasses, and the errors its client raises. No network, no HTTP library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models.errors import AnoleError
from service.client.reports import Report


class ClientError(AnoleError):
    """Root of what the client raises."""


class ServiceUnreachable(ClientError):
    """No answer: no connection, none in time, or not one of this service."""


class InvalidInput(ClientError, ValueError):
    """What was to be sent cannot be: no such file, no class folders, not one label a sample."""


class ServiceProblem(ClientError):
    """The service refused or failed.

    Attributes:
        status: HTTP status.
        code: stable name of the problem, e.g. "unknown_client"; compare this.
        title: short text, the same for every occurrence.
        detail: what came, what is allowed, what to do.
        retry_after_s: when to try again, in seconds, if the service said so.
        request_id: names the request in the service's log; of a job that failed, the job's number, which does so too.
    """

    def __init__(self, fields: Mapping[str, Any], retry_after_s: int | None, request_id: str) -> None:
        self.status = int(fields["status"])
        self.code = str(fields["code"])
        self.title = str(fields["title"])
        self.detail = str(fields["detail"])
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        super().__init__(f"{self.code}: {self.detail}")


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image to adapt on: the name of its class, the name of its file, its bytes."""

    label: str
    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """What an adaptation may be asked for; None leaves it to the service.

    Attributes:
        mode: "extend" keeps the client's earlier samples, "replace" starts afresh.
        steps: inner steps.
        learning_rate: of the inner steps.
        seed: of the inner loop's random draws.
        publish: "auto", "always" or "never".
        first: "prototypes" makes a version without inner steps before the one asked for; goes with `told`.
    """

    mode: str | None = None
    steps: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    publish: str | None = None
    first: str | None = None


@dataclass(frozen=True, slots=True)
class Adapted:
    """The version that an adaptation made."""

    client: str
    version: int
    parent: int | None
    classes: tuple[str, ...]
    published: bool
    live: int | None
    meta_model: str
    weights_digest: str
    weights_bytes: int
    report: Report


@dataclass(frozen=True, slots=True)
class AdaptProgress:
    """How far an adaptation is.

    Attributes:
        stage: "waiting", "decode", "adapt", "examine" or "store".
        steps_done: inner steps done, those of the folds that examine the version included.
        steps: inner steps that there are to do; 0 until it is known.
        loss: that the version's last inner step began with; None before the first.
        first: the version without inner steps, once it is made, if one was asked for.
    """

    stage: str
    steps_done: int
    steps: int
    loss: float | None
    first: Adapted | None


@dataclass(frozen=True, slots=True)
class ImageVerdict:
    """What a version says of one image; `verdict` is "known" or "unknown", by its familiarity."""

    name: str
    label: str
    confidence: float
    scores: Mapping[str, float]
    familiarity: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Predicted:
    """What one version says of every image, in the order they were given."""

    client: str
    version: int
    weights_digest: str
    predictions: tuple[ImageVerdict, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class AliasInfo:
    """Where an alias points; `etag` moves it only if nobody else did."""

    client: str
    alias: str
    version: int
    previous: int | None
    revision: int
    etag: str
    moved_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """A client."""

    client: str
    created_at: datetime
    versions: int
    latest: int
    live: int | None
    aliases: tuple[AliasInfo, ...]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version as a listing shows it."""

    client: str
    version: int
    parent: int | None
    classes: tuple[str, ...]
    samples: int
    aliases: tuple[str, ...]
    meta_model: str
    weights_digest: str
    weights_bytes: int
    support_accuracy: float | None
    estimated_accuracy: float | None
    gate: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class History:
    """The log of alias moves, oldest first, and what was live at its end."""

    client: str
    at: datetime | None
    live: int | None
    moves: tuple[AliasInfo, ...]
