"""The interface of batch predictors: images of many versions in one call, each with its own weights."""

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
    """The classes' mean features: ``head.means`` (n_way, features) and ``head.gain``."""

    means: Floats
    gain: float


@dataclass(frozen=True, slots=True)
class ServingWeights:
    """One version's weights in the format of the `BatchPredictor` that made them.

    Attributes:
        values: weights by name.
        class_means: for the in-distribution score; None for weights without class means.
        size_bytes: memory held.
    """

    values: Mapping[str, Any]
    class_means: ClassMeans | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """Images for one version: float32 (images, channels, side, side), from `images.preprocessing.prepare`."""

    weights: ServingWeights
    images: Floats


@dataclass(frozen=True, slots=True)
class NetOutput:
    """The net's output for one request: logits (images, n_way) and features (images, feature_count)."""

    logits: Floats
    features: Floats


class BatchPredictor(ABC):
    """Predicts images of many versions of one net in one call. Thread-safe.

    A prediction depends on its image and version alone: probabilities and in-distribution scores are within 1e-5 of
    `predict_images` for that image by itself.
    """

    def predict(self, requests: Sequence[PredictionRequest]) -> list[Predictions]:
        """Predict the images of each request, in order. Requests may differ in their numbers of images and classes."""
        outputs = self._forward(requests)
        return [
            _predictions(request.weights.class_means, output)
            for request, output in zip(requests, outputs, strict=True)
        ]  # fmt: skip

    def serving_weights(self, folded: Weights) -> ServingWeights:
        """Convert the weights of `fold_calibrated` to the format of this predictor."""
        means = None
        if heads.MEANS in folded:
            means = ClassMeans(folded[heads.MEANS].cpu().numpy(), float(folded[heads.GAIN]))
        net_weights = {name: tensor for name, tensor in folded.items() if name not in (heads.MEANS, heads.GAIN)}
        values, size_bytes = self._convert(net_weights)
        return ServingWeights(values, means, size_bytes + (0 if means is None else means.means.nbytes))

    @abstractmethod
    def _convert(self, folded: Weights) -> tuple[Mapping[str, Any], int]:
        """Convert the net's and the head's weights to the format that `_forward` reads; also return their bytes."""

    @abstractmethod
    def _forward(self, requests: Sequence[PredictionRequest]) -> list[NetOutput]: ...


def concatenate(chunks: Sequence[NetOutput]) -> NetOutput:
    """Join the outputs for consecutive images of one request."""
    if len(chunks) == 1:
        return chunks[0]
    return NetOutput(
        np.concatenate([chunk.logits for chunk in chunks]), np.concatenate([chunk.features for chunk in chunks])
    )


def _predictions(means: ClassMeans | None, output: NetOutput) -> Predictions:
    """As `predict_images`, in numpy: on arrays this small, the overhead of a torch call exceeds the arithmetic."""
    raised = np.exp(output.logits - output.logits.max(-1, keepdims=True))
    probabilities = raised / raised.sum(-1, keepdims=True)  # (images, n_way)
    if means is None:
        return Predictions(torch.from_numpy(probabilities), None)
    nearest = means.means[output.logits.argmax(-1)]  # (images, features)
    distance = np.square(output.features - nearest).sum(-1) * means.gain**2  # (images,)
    confidence = probabilities.max(-1)
    return Predictions(torch.from_numpy(probabilities), torch.from_numpy(confidence / (confidence + distance)))
