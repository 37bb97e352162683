"""Prediction with an adapted version: folded weights, no autograd, no statistics of the batch at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.nets import heads
from models.nets.base import Net, grouped
from models.nets.normalisation import FoldedPass, fold
from models.weights import Weights

__all__ = ["Predictions", "class_probabilities", "fold", "judge", "ready"]


@dataclass(frozen=True)
class Predictions:
    """What a version says of images.

    Attributes:
        probabilities: (batch, n_way), each row sums to 1.
        familiarity: (batch,), see `heads.familiarity`; None for weights without class means.
    """

    probabilities: Tensor
    familiarity: Tensor | None


def ready(weights: Weights, statistics: Mapping[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
    """Make a version's weights ready to judge with: `fold`, the head divided by `temperature`, the means' gain."""
    folded = fold(weights, statistics)
    if temperature != 1.0:
        folded.update({name: folded[name] / temperature for name in (heads.WEIGHT, heads.BIAS)})
    if heads.MEANS in folded:
        folded[heads.GAIN] = means_gain(folded[heads.MEANS])
    return folded


def means_gain(means: Tensor) -> Tensor:
    """What `heads.distance_to_own` multiplies with: (n_way, features) -> a scalar."""
    nothing = torch.zeros(1, means.shape[0], dtype=torch.bool, device=means.device)
    return heads.feature_gain(means[None], nothing).reshape(())


def judge(net: Net, folded: Weights, images: Tensor) -> Predictions:
    """Judge images by one version's ready weights; each answer depends on its own image alone.

    Args:
        net: the architecture.
        folded: what `ready` (or `fold`) made of a version's weights and statistics.
        images: float32 (batch, channels, side, side), from `images.prepare`.
    """
    single = {name: tensor[None] for name, tensor in folded.items()}
    with torch.inference_mode():
        features = net.features(FoldedPass(single), grouped(images[None]))
        scores = heads.logits(single, features)  # (1, batch, n_way)
        probabilities = scores[0].softmax(-1)
        if heads.MEANS not in single:
            return Predictions(probabilities, None)
        distance = heads.distance_to_own(single, features, scores)[0]
        return Predictions(probabilities, heads.familiarity(probabilities.amax(-1), distance))


def class_probabilities(net: Net, folded: Weights, images: Tensor) -> Tensor:
    """The probabilities of `judge` alone: (batch, n_way), each row sums to 1."""
    return judge(net, folded, images).probabilities
