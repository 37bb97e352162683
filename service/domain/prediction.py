"""What a prediction says about one image. The service and the agent on devices share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.domain.version import SCORE_DIGITS, ServedVersion, unknown_score


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where an image has what speaks for the predicted class against the next one.

    Attributes:
        rows: cells from top to bottom.
        columns: cells from left to right.
        values: of each cell, row by row, from 0 to 1.
    """

    rows: int
    columns: int
    values: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How uncertain a prediction is, in nats.

    Attributes:
        total: entropy of the class probabilities.
        data: the part that would remain if the classes were known exactly.
        model: the part that comes from few samples: total - data.
    """

    total: float
    data: float
    model: float


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """Prediction for one image.

    Attributes:
        name: file name that the sender gave the image.
        label: most probable class.
        confidence: its probability.
        scores: class name -> probability.
        familiarity: similarity to the nearest class, 0 to 1; None for versions without class means.
        unknown_threshold: `unknown_score` above which an image is unknown to the version; None if the version has
            none, and then every verdict is "known".
        explanation: None unless the request wants one.
        uncertainty: None for versions of clients without the setting uncertainty=bayes.
        modalities: what the prediction is made from, "image" first; None for a model that takes images alone.
    """

    name: str
    label: str
    confidence: float
    scores: Mapping[str, float]
    familiarity: float | None
    unknown_threshold: float | None
    explanation: Explanation | None = None
    uncertainty: Uncertainty | None = None
    modalities: tuple[str, ...] | None = None

    @property
    def unknown_score(self) -> float | None:
        """How little the image looks like any of the classes, 0 to 1; None without familiarity."""
        return unknown_score(self.familiarity)

    @property
    def verdict(self) -> Literal["known", "unknown"]:
        """ "unknown" if the unknown score is above the threshold; "known" if either is None."""
        if self.unknown_score is None or self.unknown_threshold is None:
            return "known"
        return "unknown" if self.unknown_score > self.unknown_threshold else "known"


def image_prediction(
    name: str,
    version: ServedVersion,
    probabilities: Sequence[float],
    familiarity: float | None,
    uncertainty: Uncertainty | None = None,
) -> ImagePrediction:
    """Round the scores of one image and name its class.

    Args:
        name: file name that the sender gave the image.
        version: the version that predicted.
        probabilities: of its classes, in order.
        familiarity: of the image, or None.
        uncertainty: of the prediction, or None.
    """
    scores = {
        label: round(probability, SCORE_DIGITS)
        for label, probability in zip(version.classes, probabilities, strict=True)
    }
    label = max(scores, key=scores.__getitem__)
    rounded = None if familiarity is None else round(familiarity, SCORE_DIGITS)
    confidence, threshold = scores[label], version.unknown_threshold
    return ImagePrediction(name, label, confidence, scores, rounded, threshold, uncertainty=uncertainty)
