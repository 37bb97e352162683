"""The JSON of every answer, documented for /docs. It knows nothing of how the values are made."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.domain.client import MAX_KEEP_LAST
from service.http.schemas.base import DIGEST, Answer
from service.http.schemas.report import HeldOut, Report


class ProblemDetails(Answer):
    """RFC 9457: what went wrong. Programs compare `code`; people read `detail`."""

    type: str = Field(examples=["urn:anole:problem:unknown_client"])
    title: str = Field(examples=["There is no such client"])
    status: int = Field(examples=[404])
    code: str = Field(description="stable snake_case name of the problem", examples=["unknown_client"])
    detail: str = Field(description="what came, what is allowed, what to do")
    instance: str = Field(description="the path that was asked for", examples=["/clients/nobody"])


class Weights(Answer):
    """The stored weights of a version: what differs from the meta-model."""

    digest: str = Field(description="SHA-256 of the stored weights", json_schema_extra=DIGEST)
    bytes: int = Field(description="size of the stored weights", examples=[48_640])


class Adapted(Answer):
    """The version that an adaptation made."""

    client: str = Field(examples=["demo"])
    version: int = Field(examples=[1])
    parent: int | None = Field(description="the version whose samples it extends")
    classes: list[str] = Field(examples=[["clean", "scratch"]])
    published: bool = Field(description="whether it went live")
    live: int | None = Field(description="the version that is live now")
    model: str = Field(description="name of the meta-model", examples=["surfaces"])
    weights: Weights
    report: Report


class ImageVerdict(Answer):
    """What a version says of one image."""

    name: str = Field(examples=["part-0417.png"])
    label: str = Field(description="the likeliest class", examples=["scratch"])
    confidence: float = Field(examples=[0.93])
    scores: dict[str, float] = Field(description="probability by class; they sum to 1")
    familiarity: float | None = Field(
        description="how much it looks like one of the classes at all, 0 to 1; null for versions of earlier releases"
    )
    verdict: Literal["known", "unknown"]


class Predicted(Answer):
    """What one version says of every image, in the order they came."""

    client: str
    version: int = Field(description="the version that judged")
    weights_digest: str = Field(json_schema_extra=DIGEST)
    predictions: list[ImageVerdict]
    seconds: float


class Alias(Answer):
    """Where an alias points. `etag` goes into `If-Match` to move it only if nobody else did."""

    client: str
    alias: str = Field(examples=["live"])
    version: int
    previous: int | None = Field(description="where it pointed before this move")
    revision: int = Field(description="1, 2, 3 … one more with each move")
    etag: str = Field(examples=['"3"'])
    moved_at: datetime
    reason: str = Field(description="adapt, set or rollback")


class AliasTarget(BaseModel):
    """Where to point an alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"version": 1}]})

    version: int = Field(strict=True, ge=1, le=2**31 - 1)


class History(Answer):
    """The log of alias moves, oldest first."""

    client: str
    at: datetime | None = Field(description="the moment asked for, in UTC; null for all moves")
    live: int | None = Field(description="the version that was live at that moment; null if none was")
    moves: list[Alias]


class ClientInfo(Answer):
    """A client."""

    client: str
    created_at: datetime
    versions: int = Field(description="versions it has, deleted ones not counted")
    latest: int = Field(description="highest version number given so far")
    live: int | None
    aliases: list[Alias]


class ClientList(Answer):
    """Every client, by name."""

    clients: list[ClientInfo]


class ClientSettingsBody(Answer):
    """What a client chooses for itself."""

    retain_samples: bool = Field(
        True, strict=True, description="false: no image is stored; versions cannot be extended"
    )
    keep_last: int | None = Field(
        None, strict=True, ge=1, le=MAX_KEEP_LAST, description="newest versions that a collection keeps; null: all"
    )
    floor: float | None = Field(
        None,
        ge=0,
        le=1,
        description="estimated accuracy that a version must reach to go live; null: half way from guessing to 1",
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of an earlier class's kept samples that a version may lose and still go live; null: a "
        "quarter, and always one sample",
    )


class Erased(Answer):
    """What the deletion of a client took away."""

    client: str
    versions: int = Field(description="versions it had")
    blobs: int = Field(description="samples and weights that were stored for it")
    bytes: int = Field(description="their size together")


class Sample(Answer):
    """A labelled image that a version was adapted on."""

    name: str = Field(description="what the sender called it")
    label: str
    digest: str = Field(description="SHA-256 of the stored image", json_schema_extra=DIGEST)
    held_out: HeldOut | None = Field(None, description="what was said of it while it was left out")


class VersionInfo(Answer):
    """A version as a listing shows it."""

    client: str
    version: int
    parent: int | None
    classes: list[str]
    samples: int
    aliases: list[str] = Field(description="aliases that point at it now")
    model: str
    weights: Weights
    support_accuracy: float | None
    estimated_accuracy: float | None
    gate: Literal["publish", "hold"]
    created_at: datetime


class VersionList(Answer):
    """The versions of a client that were not deleted, oldest first."""

    client: str
    live: int | None
    versions: list[VersionInfo]


class VersionDetails(VersionInfo):
    """A version with everything that it can be made again from."""

    model_digest: str = Field(json_schema_extra=DIGEST)
    recipe: dict[str, Any]
    seed: int
    device: str
    batched_with: int = Field(description="inner loops that ran in the same batch; 0: a re-run is bit-identical")
    sample_list: list[Sample] = Field(description="in the order they were adapted on")
    report: Report


class MetaModel(Answer):
    """A meta-trained start."""

    name: str
    digest: str = Field(json_schema_extra=DIGEST)
    net: dict[str, Any]
    recipe: dict[str, Any]
    image: dict[str, Any] = Field(description="what an image becomes before the net sees it")
    card: dict[str, Any] = Field(description="how it was trained and what it scores")


class MetaModelList(Answer):
    """The meta-models on offer; the first is the one in use."""

    models: list[MetaModel]


class Alive(Answer):
    """The event loop answers."""

    status: Literal["alive"] = "alive"


class Ready(Answer):
    """Whether requests should be sent here."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str]


class Landing(Answer):
    """Where to go from here."""

    service: str
    version: str
    access: Literal["open", "key"]
    docs: str
    openapi: str
    clients: str
