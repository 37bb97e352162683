"""The report of a version: from cross-validation to the JSON data that is recorded, and back from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.validation.cross_validation import CrossValidatedAdaptation, CrossValidationResult, CrossValidationSkipped
from service.domain.version import HELD_OUT, SampleRef, VersionDraft, unknown_score

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class HeldOutPrediction:
    """The prediction for a sample by a fold that was not adapted on it.

    Attributes:
        label: predicted class.
        confidence: its calibrated probability.
        known: False if the verdict would be "unknown".
    """

    label: str
    confidence: float
    known: bool


@dataclass(frozen=True, slots=True)
class ClassEstimate:
    """How many held-out samples of a class there are, and how many of them were predicted correctly."""

    total: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """Share predicted correctly; None if no sample was held out."""
        return self.correct / self.total if self.total else None


def build_report(
    validated: CrossValidatedAdaptation,
    samples: Sequence[SampleRef],
    classes: Sequence[str],
    bit_depth: int | None = None,
    modalities: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return what cross-validation found as report fields; they are null if there was none.

    `bit_depth` is that of images of 16 bits per sample that do not declare it, or None. `modalities` are those that the
    version was taught with, or None for a model that takes images alone.
    """
    report: dict[str, Any] = {
        "support_accuracy": validated.adapted.support_accuracy,
        "estimated_accuracy": None,
        "interval": None,
        "temperature": None,
        "unknown_threshold": None,
        "bit_depth": bit_depth,
        "loss_curve": list(validated.adapted.losses),
        "suspects": None,
        "alike": None,
        "confusion": None,
        "folds": 0,
        **({} if modalities is None else {"modalities": modalities}),
    }
    found = validated.validation
    if isinstance(found, CrossValidationSkipped):
        return report
    return {**report, **_cross_validation_fields(found, samples, classes)}


def _cross_validation_fields(
    found: CrossValidationResult, samples: Sequence[SampleRef], classes: Sequence[str]
) -> dict[str, Any]:
    return {
        "estimated_accuracy": found.estimate.accuracy,
        "interval": [found.estimate.low, found.estimate.high],
        "temperature": found.temperature,
        "unknown_threshold": found.unknown_threshold,  # see `report_fields`
        "suspects": [
            {
                "sample": samples[issue.sample].name,
                "label": samples[issue.sample].label,
                "predicted": classes[issue.predicted],
                "confidence": round(issue.confidence, _DIGITS),
            }
            for issue in found.label_issues
        ],
        "alike": [classes[index] for index in found.alike],
        "confusion": found.confusion.tolist(),
        "folds": found.folds,
        HELD_OUT: [
            None
            if prediction is None
            else [
                prediction.predicted,
                round(prediction.confidence, _DIGITS),
                prediction.in_distribution >= found.unknown_threshold,
            ]
            for prediction in found.held_out
        ],
    }


def report_fields(draft: VersionDraft) -> dict[str, Any]:
    """Return the report as answers have it. A version records its threshold as a familiarity, an answer as a score."""
    return {**draft.report, "unknown_threshold": unknown_score(draft.report.get("unknown_threshold"))}


def held_out_predictions(draft: VersionDraft) -> Mapping[str, HeldOutPrediction]:
    """Return sample digest -> prediction for the samples that were held out; empty without cross-validation."""
    recorded = draft.report.get(HELD_OUT) or []
    return {
        sample.digest: HeldOutPrediction(draft.classes[prediction[0]], prediction[1], prediction[2])
        for sample, prediction in zip(draft.samples, recorded, strict=False)
        if prediction is not None
    }


def suspects(draft: VersionDraft) -> frozenset[str]:
    """Return the digests of the samples whose labels are probably wrong. Reports name them by name and prediction."""
    held_out = held_out_predictions(draft)
    reported = {
        (issue["sample"], issue["label"], issue["predicted"], issue["confidence"])
        for issue in draft.report.get("suspects") or []
    }
    return frozenset(
        sample.digest
        for sample in draft.samples
        if (found := held_out.get(sample.digest)) is not None
        and (sample.name, sample.label, found.label, found.confidence) in reported
    )


def class_estimates(draft: VersionDraft) -> Mapping[str, ClassEstimate]:
    """Return class name -> estimate, for every class of the version."""
    confusion = draft.report.get("confusion")
    if confusion is None:
        return {label: ClassEstimate(0, 0) for label in draft.classes}
    return {
        label: ClassEstimate(sum(row), row[index])
        for index, (label, row) in enumerate(zip(draft.classes, confusion, strict=True))
    }
