"""The JSON of what an examination found: the report of a version, and two versions side by side."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.http.schemas.base import DIGEST, Answer


class Suspect(Answer):
    """A sample whose label looks wrong."""

    sample: str
    label: str
    predicted: str
    confidence: float


class Dropped(Answer):
    """An earlier class that lost kept samples: how many both versions judged, and how many each named rightly."""

    label: str
    judged: int
    before: int
    after: int


class Gate(Answer):
    """Whether the new version should go live, and why."""

    decision: Literal["publish", "hold"]
    reasons: list[str] = Field(description="sentences, for people")
    floor: float | None = Field(None, description="what the estimate had to reach")
    dropped: list[Dropped] = Field([], description="earlier classes that lost more than the tolerance")


class Seconds(Answer):
    """Where the time of an adaptation went."""

    decode: float
    adapt: float = Field(description="inner loops of the version and, beside it, of its examination's folds")
    examine: float = Field(description="judging left-out samples and drawing conclusions")
    store: float
    total: float


class Report(Answer):
    """What is known of a new version. Fields that only an examination can fill are null without one."""

    support_accuracy: float | None = Field(description="share of its own samples that it names right; optimistic")
    estimated_accuracy: float | None = Field(description="honest estimate from samples left out")
    interval: tuple[float, float] | None = Field(description="95 % interval of the estimate")
    temperature: float | None = Field(description="calibration of the confidences")
    unknown_threshold: float | None = Field(description="familiarity below which the verdict is unknown")
    loss_curve: list[float] = Field(description="loss after each inner step")
    suspects: list[Suspect] | None = Field(description="most suspect first")
    confusion: list[list[int]] | None = Field(
        None, description="left-out samples by label (rows) and by what they were taken for, in the order of `classes`"
    )
    folds: int = Field(0, description="inner loops that left samples out")
    gate: Gate
    seconds: Seconds


class HeldOut(Answer):
    """What a net that had not seen a sample said of it."""

    label: str
    confidence: float
    verdict: Literal["known", "unknown"]


class ClassEstimate(Answer):
    """How a class fared among left-out samples."""

    judged: int = Field(description="samples left out and judged")
    right: int
    estimate: float | None = Field(description="share judged right; null if none was judged")


class ClassDiff(Answer):
    """A class in either version; null where it does not have it."""

    label: str
    before: ClassEstimate | None
    after: ClassEstimate | None


class SampleDiff(Answer):
    """A sample of both versions whose label or verdict changes."""

    name: str
    digest: str = Field(json_schema_extra=DIGEST)
    label_before: str
    label_after: str
    before: HeldOut | None
    after: HeldOut | None


class VersionDiff(Answer):
    """What changes from one version to another."""

    client: str
    before: int
    after: int
    added: list[str] = Field(description="classes that only the later one has")
    removed: list[str] = Field(description="classes that only the earlier one has")
    estimate_before: float | None
    estimate_after: float | None
    classes: list[ClassDiff]
    samples_kept: int = Field(description="samples that both learned from")
    samples_added: int
    samples_removed: int
    changed: list[SampleDiff] = Field(description="kept samples whose label or verdict changes")
