"""Prediction with one adapted version: the plain path that defines the right answer for every faster one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.nets import Net, call_net, heads
from models.nets.normalisation import fold
from models.validation.novelty import class_means_gain, distance_to_predicted_mean, in_distribution_score
from models.weights import Weights


@dataclass(frozen=True)
class Predictions:
    """Predictions for a batch of images.

    Attributes:
        probabilities: (batch, n_way), each row sums to 1.
        in_distribution: (batch,), see `novelty.in_distribution_score`; None for weights without class means.
    """

    probabilities: Tensor
    in_distribution: Tensor | None


def fold_calibrated(weights: Weights, statistics: Mapping[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
    """Fold the statistics into the weights, divide the head by `temperature` and add the gain of the class means."""
    folded = fold(weights, statistics)
    if temperature != 1.0:
        folded.update({name: folded[name] / temperature for name in (heads.WEIGHT, heads.BIAS)})
    if heads.MEANS in folded:
        folded[heads.GAIN] = class_means_gain(folded[heads.MEANS])
    return folded


def predict_images(net: Net, folded: Weights, images: Tensor) -> Predictions:
    """Predict with one version's folded weights. Each prediction depends on its own image alone.

    Args:
        net: the architecture.
        folded: from `fold_calibrated`, or from `fold`.
        images: float32 (batch, channels, side, side), from `images.preprocessing.prepare`.
    """
    single = {name: tensor[None] for name, tensor in folded.items()}
    with torch.inference_mode():
        features = call_net(net, single, images[None])
        scores = heads.logits(single, features)  # (1, batch, n_way)
        probabilities = scores[0].softmax(-1)
        if heads.MEANS not in single:
            return Predictions(probabilities, None)
        distance = distance_to_predicted_mean(single, features, scores)[0]
        return Predictions(probabilities, in_distribution_score(probabilities.amax(-1), distance))


def class_probabilities(net: Net, folded: Weights, images: Tensor) -> Tensor:
    """The probabilities of `predict_images`: (batch, n_way), each row sums to 1."""
    return predict_images(net, folded, images).probabilities
