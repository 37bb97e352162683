"""Heads: features to class scores, for many tasks at once. Refuses to know where features come from.

A head is two weights, ``head.weight`` (tasks, ways, features) and ``head.bias`` (tasks, ways). Tasks with fewer classes
than the widest of the batch are masked.

An adapted version's head also knows where its classes lie: ``head.means`` (tasks, ways, features), the class means of
its own samples, and ``head.gain`` (tasks,), which takes the features' scale out of distances to them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.weights import Weights

WEIGHT, BIAS = "head.weight", "head.bias"
MEANS, GAIN = "head.means", "head.gain"

_LEAST_SPREAD = 1e-6
"""Keeps identical prototypes from giving infinite weights."""


def class_means(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Average the features of each class.

    Args:
        features: (tasks, samples, features).
        labels: int64 (tasks, samples).
        ways: rows of the result; a class without samples gives a row of zeros.

    Returns:
        (tasks, ways, features): the prototypes of Snell et al. 2017, section 2.2.
    """
    member = F.one_hot(labels, ways).to(features.dtype)  # (tasks, samples, ways)
    totals = member.transpose(1, 2) @ features
    return totals / member.sum(1).clamp(min=1)[..., None]


def feature_gain(prototypes: Tensor, absent: Tensor) -> Tensor:
    """What features are multiplied with so that a task's prototypes have a mean squared distance of 1 to their centre.

    It takes the features' scale out of the head. Without it meta-training is rewarded for ever larger features, the
    head's steps grow with their square, and a long training can diverge.

    Args:
        prototypes: (tasks, ways, features).
        absent: bool (tasks, ways), rows without a class.

    Returns:
        (tasks, 1, 1).
    """
    present = (~absent).to(prototypes.dtype)[..., None]  # (tasks, ways, 1)
    ways = present.sum(1, keepdim=True)
    centre = (prototypes * present).sum(1, keepdim=True) / ways
    spread = ((prototypes - centre) * present).square().sum((1, 2), keepdim=True) / ways
    return torch.rsqrt(spread.clamp(min=_LEAST_SPREAD))


def prototype_head(prototypes: Tensor, scale: float) -> dict[str, Tensor]:
    """A linear head that scores by -scale * squared distance to each prototype, up to a constant of the image.

    -|f - p|^2 = 2 f.p - |p|^2 - |f|^2, and the last term is the same for every class (Snell et al. 2017, section 2.4).

    Args:
        prototypes: (tasks, ways, features), of features that were multiplied with their gain.
        scale: logits lost per squared distance of 1.
    """
    return {WEIGHT: 2 * scale * prototypes, BIAS: -scale * prototypes.square().sum(-1)}


def linear_head(feature_count: int, ways: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A meta-trainable head for a fixed number of classes, drawn uniformly (Glorot & Bengio 2010), for one task."""
    bound = (6.0 / (feature_count + ways)) ** 0.5
    drawn = torch.rand(ways, feature_count, generator=generator)
    return {WEIGHT: (2 * drawn - 1) * bound, BIAS: torch.zeros(ways)}


def logits(weights: Weights, features: Tensor, absent: Tensor | None = None) -> Tensor:
    """Score features: (tasks, batch, features) -> (tasks, batch, ways); `absent` classes (tasks, ways) get -inf."""
    scores = torch.baddbmm(weights[BIAS][:, None], features, weights[WEIGHT].transpose(1, 2))
    return scores if absent is None else scores.masked_fill(absent[:, None], float("-inf"))
