"""What the service says of a version's quality, as frozen dataclasses, and how its JSON is read. No network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DroppedClass:
    """An earlier class that lost kept samples: how many both versions judged, and how many each named rightly."""

    label: str
    judged: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether the version should go live ("publish" or "hold"), why, and the floor that the estimate had to reach."""

    decision: str
    reasons: tuple[str, ...]
    floor: float | None
    dropped: tuple[DroppedClass, ...]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sample whose label looks wrong, the class that it looks like, and how probable that is."""

    sample: str
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a new version; None where only an examination could tell.

    Attributes:
        support_accuracy: share of its own samples that it names right; optimistic.
        estimated_accuracy: honest estimate from samples left out.
        interval: its 95 % interval.
        temperature: calibration of the confidences.
        unknown_threshold: familiarity below which the verdict is unknown.
        loss_curve: loss of each inner step.
        suspects: most suspect first.
        confusion: left-out samples by label and by what they were taken for, in the order of the classes.
        folds: inner loops that left samples out.
        gate: whether it should go live.
        seconds: by part of the work.
    """

    support_accuracy: float | None
    estimated_accuracy: float | None
    interval: tuple[float, float] | None
    temperature: float | None
    unknown_threshold: float | None
    loss_curve: tuple[float, ...]
    suspects: tuple[Suspect, ...] | None
    confusion: tuple[tuple[int, ...], ...] | None
    folds: int
    gate: Gate
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a net that had not seen a sample said of it; `verdict` is "known" or "unknown"."""

    label: str
    confidence: float
    verdict: str


@dataclass(frozen=True, slots=True)
class ClassEstimate:
    """How a class fared among left-out samples; `estimate` is None if none was judged."""

    judged: int
    right: int
    estimate: float | None


@dataclass(frozen=True, slots=True)
class ClassDiff:
    """A class in either version; None where it does not have it."""

    label: str
    before: ClassEstimate | None
    after: ClassEstimate | None


@dataclass(frozen=True, slots=True)
class SampleDiff:
    """A sample of both versions whose label or verdict changes."""

    name: str
    digest: str
    label_before: str
    label_after: str
    before: HeldOut | None
    after: HeldOut | None


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What changes from one version to another."""

    client: str
    before: int
    after: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    estimate_before: float | None
    estimate_after: float | None
    classes: tuple[ClassDiff, ...]
    samples_kept: int
    samples_added: int
    samples_removed: int
    changed: tuple[SampleDiff, ...]


def read_report(data: Any) -> Report:
    """A report from its JSON."""
    suspects, confusion, gate = data["suspects"], data["confusion"], data["gate"]
    return Report(
        support_accuracy=data["support_accuracy"],
        estimated_accuracy=data["estimated_accuracy"],
        interval=None if data["interval"] is None else tuple(data["interval"]),
        temperature=data["temperature"],
        unknown_threshold=data["unknown_threshold"],
        loss_curve=tuple(data["loss_curve"]),
        suspects=None if suspects is None else tuple(Suspect(**suspect) for suspect in suspects),
        confusion=None if confusion is None else tuple(map(tuple, confusion)),
        folds=data["folds"],
        gate=Gate(
            gate["decision"],
            tuple(gate["reasons"]),
            gate["floor"],
            tuple(DroppedClass(**dropped) for dropped in gate["dropped"]),
        ),
        seconds=data["seconds"],
    )


def read_diff(data: Any) -> VersionDiff:
    """Two versions side by side, from their JSON."""
    classes = (
        ClassDiff(item["label"], *(_read(ClassEstimate, item[side]) for side in ("before", "after")))
        for item in data["classes"]
    )
    changed = (
        SampleDiff(**{**item, "before": _read(HeldOut, item["before"]), "after": _read(HeldOut, item["after"])})
        for item in data["changed"]
    )
    lists = {"added": tuple(data["added"]), "removed": tuple(data["removed"])}
    return VersionDiff(**{**data, **lists, "classes": tuple(classes), "changed": tuple(changed)})


def _read(kind: Any, data: Mapping[str, Any] | None) -> Any:
    return None if data is None else kind(**data)
