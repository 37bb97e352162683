"""Novelty detection: how likely an image shows one of a version's classes at all, and the threshold for "unknown"."""

from __future__ import annotations

import torch
from torch import Tensor

from models.nets import heads
from models.nets.backbone import standardised_length
from models.weights import Weights

UNKNOWN_SHARE = 0.05
"""Share of held-out samples, all of known classes, that the threshold may call unknown by default."""


def novelty_distance(weights: Weights, inputs: Tensor, features: Tensor, logits: Tensor) -> Tensor:
    """How far each image is from what the head has learned, 0 or more; what the distance is depends on the head.

    Args:
        weights: folded, with `heads.LEVEL`, (tasks,), or with `heads.MEANS` and `heads.GAIN`.
        inputs: of the net, (tasks, batch, ...).
        features: (tasks, batch, features).
        logits: (tasks, batch, n_way).

    Returns:
        (tasks, batch).
    """
    if heads.LEVEL not in weights:
        return distance_to_predicted_mean(weights, features, logits)
    distance = discriminant_distance(logits, weights[heads.LEVEL][:, None])
    if heads.LENGTH not in weights:  # a version of an earlier release, or a net without a frozen backbone
        return distance
    length = standardised_length(inputs, weights["pooled.scale"], weights["pooled.shift"])
    return distance * (length / weights[heads.LENGTH][:, None]).clamp(min=1).square()


def discriminant_distance(logits: Tensor, level: Tensor) -> Tensor:
    """exp(-largest discriminant), relative to the discriminant at the mean of a class, for heads of LDA.

    An image that varies in no direction that tells the classes apart has discriminants near 0. The softmax would hide
    this, because it keeps differences only. The discriminants see features of one length, so a black image may look
    like the darkest class; `novelty_distance` therefore grows with an unusual length.

    Args:
        logits: (..., n_way), the discriminants.
        level: `heads.LEVEL`, of a shape that broadcasts to (...).
    """
    return torch.exp(-logits.amax(-1) / level)


def distance_to_predicted_mean(weights: Weights, features: Tensor, logits: Tensor) -> Tensor:
    """Squared distance of each image's features to the mean of its predicted class.

    Distances are relative to the mean squared distance of the class means to their centre, so they compare across
    tasks.

    Args:
        weights: with `heads.MEANS` and `heads.GAIN`.
        features: (tasks, batch, features).
        logits: (tasks, batch, n_way).

    Returns:
        (tasks, batch).
    """
    predicted = logits.argmax(-1)  # (tasks, batch)
    means = weights[heads.MEANS]
    nearest = means.gather(1, predicted[..., None].expand(-1, -1, means.shape[-1]))  # (tasks, batch, features)
    return (features - nearest).square().sum(-1) * weights[heads.GAIN][:, None].square()


def in_distribution_score(confidence: Tensor, distance: Tensor) -> Tensor:
    """Score from 0 to 1 of how much an image looks like one of the classes (`familiarity` in the API).

    The score approaches 0 far from all classes. Its odds are confidence over distance, so an image between two classes
    scores low too.

    Args:
        confidence: probability of the predicted class.
        distance: from `novelty_distance`, same shape.
    """
    return confidence / (confidence + distance)


def unknown_threshold(scores: Tensor, share: float = UNKNOWN_SHARE) -> float:
    """Score below which an image is unknown: this share, 0 to 1, of the held-out samples' scores falls below it.

    Args:
        scores: (samples,), from `in_distribution_score`.
        share: share of images of known classes that may be called unknown.
    """
    return float(torch.quantile(scores.to(torch.float64), share))
