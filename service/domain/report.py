"""What an examination found, as the JSON data that a version records, and read back from there.

It knows neither HTTP nor a store; what follows from the findings is the gate's part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.validation.cross_validation import CrossValidation, NotCrossValidated, ValidatedAdaptation
from service.domain.version import SampleRef, VersionDraft

HELD_OUT: Final = "held_out"
"""Key of the answers on left-out samples; they are recorded with a version and not part of what is answered."""

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class HeldOutPrediction:
    """What was said of a sample by a fold that had not seen it.

    Attributes:
        label: class that it named.
        confidence: its calibrated probability.
        known: False if it would have been called unknown.
    """

    label: str
    confidence: float
    known: bool


@dataclass(frozen=True, slots=True)
class ClassEstimate:
    """How a class fared among left-out samples: how many were judged, and how many of them rightly."""

    judged: int
    right: int

    @property
    def share(self) -> float | None:
        """Share judged right; None if none was judged."""
        return self.right / self.judged if self.judged else None


def findings(examined: ValidatedAdaptation, samples: Sequence[SampleRef], classes: Sequence[str]) -> dict[str, Any]:
    """A version's report as far as its examination goes; without one its fields are null."""
    report: dict[str, Any] = {
        "support_accuracy": examined.adapted.support_accuracy,
        "estimated_accuracy": None,
        "interval": None,
        "temperature": None,
        "unknown_threshold": None,
        "loss_curve": list(examined.adapted.losses),
        "suspects": None,
        "confusion": None,
        "folds": 0,
    }
    found = examined.examination
    if isinstance(found, NotCrossValidated):
        return report
    return {**report, **_found(found, samples, classes)}


def _found(found: CrossValidation, samples: Sequence[SampleRef], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "estimated_accuracy": found.estimate.accuracy,
        "interval": [found.estimate.low, found.estimate.high],
        "temperature": found.temperature,
        "unknown_threshold": found.unknown_threshold,
        "suspects": [
            {
                "sample": samples[suspect.sample].name,
                "label": samples[suspect.sample].label,
                "predicted": classes[suspect.looks_like],
                "confidence": round(suspect.confidence, _DIGITS),
            }
            for suspect in found.suspects
        ],
        "confusion": found.confusion.tolist(),
        "folds": found.folds,
        HELD_OUT: [
            None
            if answer is None
            else [answer.predicted, round(answer.confidence, _DIGITS), answer.familiarity >= found.unknown_threshold]
            for answer in found.held_out
        ],
    }


def held_out(draft: VersionDraft) -> Mapping[str, HeldOutPrediction]:
    """Sample digest -> the answer on it, for the samples that were left out once; empty without an examination."""
    recorded = draft.report.get(HELD_OUT) or []
    return {
        sample.digest: HeldOutPrediction(draft.classes[answer[0]], answer[1], answer[2])
        for sample, answer in zip(draft.samples, recorded, strict=False)
        if answer is not None
    }


def class_estimates(draft: VersionDraft) -> Mapping[str, ClassEstimate]:
    """Class name -> how it fared; every class of the version is there."""
    confusion = draft.report.get("confusion")
    if confusion is None:
        return {name: ClassEstimate(0, 0) for name in draft.classes}
    return {
        name: ClassEstimate(sum(row), row[place])
        for place, (name, row) in enumerate(zip(draft.classes, confusion, strict=True))
    }
