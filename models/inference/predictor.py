"""Judging images of many versions in one call, each with its own weights: what is asked, and what every way shares.

`predict.judge` is the plain way for one version and says what is right; how many versions go through a net together is
a `BatchPredictor`'s to decide, and which forward is used where its maker's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.inference.predict import Predictions
from models.nets import heads
from models.weights import Weights

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """Where a version's classes lie: ``head.means`` (n_way, features) and ``head.gain``."""

    means: Floats
    gain: float


@dataclass(frozen=True, slots=True)
class ServingWeights:
    """One version's weights in the form that a `BatchPredictor` reads them in, and nobody else.

    Attributes:
        values: by the forward's own names.
        class_means: for familiarity; None for weights without them.
        size_bytes: what all of it holds in memory.
    """

    values: Mapping[str, Any]
    class_means: ClassMeans | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """Images for one version: float32 (images, channels, side, side), from `images.prepare`."""

    weights: ServingWeights
    images: Floats


@dataclass(frozen=True, slots=True)
class NetOutput:
    """What a net says of a version's images: logits (images, n_way) and features (images, feature_count)."""

    logits: Floats
    features: Floats


class BatchPredictor(ABC):
    """Judges images of many versions of one net in one call. Safe from several threads.

    What is said of an image depends on the image and its version alone: probabilities and familiarity are within 1e-5
    of what `predict.judge` says of that image by itself.
    """

    def judge(self, asked: Sequence[PredictionRequest]) -> list[Predictions]:
        """Judge the images of each, in the order they came; the numbers of images and classes may differ."""
        return [
            _judged(one.weights.class_means, scored) for one, scored in zip(asked, self._scored(asked), strict=True)
        ]

    def ready(self, folded: Weights) -> ServingWeights:
        """Bring what `predict.ready` made of a version's weights into the form that `judge` wants."""
        means = None
        if heads.MEANS in folded:
            means = ClassMeans(folded[heads.MEANS].cpu().numpy(), float(folded[heads.GAIN]))
        judged_by = {name: tensor for name, tensor in folded.items() if name not in (heads.MEANS, heads.GAIN)}
        values, size_bytes = self._values(judged_by)
        return ServingWeights(values, means, size_bytes + (0 if means is None else means.means.nbytes))

    @abstractmethod
    def _values(self, folded: Weights) -> tuple[Mapping[str, Any], int]:
        """The net's and the head's weights as `_scored` reads them, and their bytes."""

    @abstractmethod
    def _scored(self, asked: Sequence[PredictionRequest]) -> list[NetOutput]: ...


def _judged(means: ClassMeans | None, scored: NetOutput) -> Predictions:
    """As `predict.judge`, in numpy: the arrays are small, and every call of torch costs more than its sums."""
    raised = np.exp(scored.logits - scored.logits.max(-1, keepdims=True))
    probabilities = raised / raised.sum(-1, keepdims=True)  # (images, n_way)
    if means is None:
        return Predictions(torch.from_numpy(probabilities), None)
    own = means.means[scored.logits.argmax(-1)]  # (images, features)
    distance = np.square(scored.features - own).sum(-1) * means.gain**2  # (images,)
    confidence = probabilities.max(-1)
    return Predictions(torch.from_numpy(probabilities), torch.from_numpy(confidence / (confidence + distance)))
