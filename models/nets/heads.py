"""Heads: linear classifiers on features, for many tasks at once.

A head has two weights, ``head.weight`` (tasks, ways, features) and ``head.bias`` (tasks, ways). Tasks with fewer
classes than the largest task of the batch are padded and masked.

An adapted version also stores what tells whether an image shows any of its classes (`validation.novelty`). Versions
with a prototype or linear head store ``head.means`` (tasks, ways, features), the mean features of each class, and use
``head.gain`` (tasks,), which makes distances to them independent of the scale of the features. Versions with an LDA
head store ``head.level`` (tasks,), the score that an image at the mean of its class gets; with a frozen backbone also
``head.length`` (tasks,), the length of the standardised features beyond which an image is far from the support.

Versions that learned from flipped images too store ``head.second_look`` (tasks,): a lead of the best class below which
an image turned by 180 degrees counts as well (`second_look`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models import weight_names
from models.weights import Weights

WEIGHT, BIAS = weight_names.HEAD_WEIGHT, weight_names.HEAD_BIAS
MEANS, GAIN = weight_names.HEAD_MEANS, weight_names.HEAD_GAIN
LEVEL, LENGTH = weight_names.HEAD_LEVEL, weight_names.HEAD_LENGTH
SECOND_LOOK = weight_names.SECOND_LOOK

_LEAST_SPREAD = 1e-6
"""Lower bound that keeps the gain of identical prototypes finite."""

_FISHER_FLOOR = 0.05
"""Added to the variance within classes: a few images may agree in a feature by chance."""

_LEAST_VARIANCE = 1e-3
"""Lower bound of the variance within classes, of features with a mean square of 1: one sample a class has none."""


def class_means(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Average the features of each class.

    Args:
        features: (tasks, samples, features).
        labels: int64 (tasks, samples).
        ways: number of rows; a class without samples gives a row of zeros.

    Returns:
        (tasks, ways, features): the prototypes of Snell et al. 2017, section 2.2.
    """
    member = F.one_hot(labels, ways).to(features.dtype)  # (tasks, samples, ways)
    totals = member.transpose(1, 2) @ features
    return totals / member.sum(1).clamp(min=1)[..., None]


def feature_gain(prototypes: Tensor, padding_mask: Tensor) -> Tensor:
    """Compute the factor that gives a task's prototypes a mean squared distance of 1 to their centre.

    Multiplying features by the gain makes the head independent of their scale. Otherwise meta-training favours ever
    larger features, the head's steps grow with their square, and a long training can diverge.

    Args:
        prototypes: (tasks, ways, features).
        padding_mask: bool (tasks, ways), True for rows without a class.

    Returns:
        (tasks, 1, 1).
    """
    present = (~padding_mask).to(prototypes.dtype)[..., None]  # (tasks, ways, 1)
    ways = present.sum(1, keepdim=True)
    centre = (prototypes * present).sum(1, keepdim=True) / ways
    spread = ((prototypes - centre) * present).square().sum((1, 2), keepdim=True) / ways
    return torch.rsqrt(spread.clamp(min=_LEAST_SPREAD))


def class_means_gain(means: Tensor) -> Tensor:
    """Factor that gives class means a mean squared distance of 1 to their centre: (n_way, features) -> a scalar."""
    no_padding = torch.zeros(1, means.shape[0], dtype=torch.bool, device=means.device)
    return feature_gain(means[None], no_padding).reshape(())


def prototype_head(prototypes: Tensor, scale: float) -> dict[str, Tensor]:
    """Build a linear head whose scores are -scale * squared distance to each prototype, plus a constant per image.

    -|f - p|^2 = 2 f.p - |p|^2 - |f|^2, and the last term is the same for every class (Snell et al. 2017, section 2.4).

    Args:
        prototypes: (tasks, ways, features), of features multiplied by their gain.
        scale: logits lost per squared distance of 1.
    """
    return {WEIGHT: 2 * scale * prototypes, BIAS: -scale * prototypes.square().sum(-1)}


@dataclass(frozen=True)
class LdaOptions:
    """How an LDA head is made.

    Attributes:
        shrinkage: of the covariance towards a multiple of the identity, above 0 to 1, where there is no prior.
        scale: score of an image at the mean of its class, averaged over the classes.
        fisher_gains: multiply each feature by the ratio of its variance between the classes to that within; then there
            is no prior, which knows the features without gains.
        prior_directions: (rank, d), and
        prior_ridge: a scalar: the prior covariance is their Gram matrix plus this multiple of the identity.
    """

    shrinkage: float
    scale: float
    fisher_gains: bool = False
    prior_directions: Tensor | None = None
    prior_ridge: float = 0.0


def lda_head(features: Tensor, labels: Tensor, ways: int, options: LdaOptions) -> dict[str, Tensor]:
    """Build the linear head of linear discriminant analysis for one task (Hastie et al. 2009, section 4.3).

    All classes share one covariance, pooled within the classes, S. With a prior P it is S + P; without, it is shrunk
    towards a multiple of the identity (Friedman 1989): (1 - shrinkage) S + shrinkage tr(S) / d I. Classes have equal
    priors, whatever their sizes. With fewer samples than features the scores come out far too large, so they are
    scaled; the temperature does the rest.

    Args:
        features: (samples, d).
        labels: int64 (samples,).
        ways: number of classes.
        options: see `LdaOptions`.

    Returns:
        ``head.weight`` (ways, d), ``head.bias`` (ways,) and ``head.level`` (), which is the scale.
    """
    means = class_means(features[None], labels[None], ways)[0]  # (ways, d)
    residuals = features - means[labels]
    gains = _fisher_gains(means, residuals) if options.fisher_gains else torch.ones_like(means[0])
    means, residuals = means * gains, residuals * gains
    if options.prior_directions is None or options.fisher_gains:
        variance = (residuals.square().sum() / residuals.numel()).clamp(min=_LEAST_VARIANCE)
        ridge = options.shrinkage * variance
        scatter = residuals * ((1 - options.shrinkage) / len(residuals)) ** 0.5
    else:
        ridge = torch.as_tensor(options.prior_ridge, device=features.device)
        scatter = torch.cat([residuals * len(residuals) ** -0.5, options.prior_directions])
    weight = _solve(scatter, ridge, means)
    bias = -0.5 * (weight * means).sum(-1)  # (ways,)
    factor = options.scale / (-bias.mean()).clamp(min=_LEAST_VARIANCE)
    return {WEIGHT: factor * weight * gains, BIAS: factor * bias, LEVEL: torch.full_like(factor, options.scale)}


def _fisher_gains(means: Tensor, residuals: Tensor) -> Tensor:
    """Variance of each feature between the classes over that within (Fisher 1936), scaled to a mean square of 1."""
    ratio = means.var(0, correction=0) / (residuals.square().mean(0) + _FISHER_FLOOR)
    return ratio * torch.rsqrt(ratio.square().mean().clamp(min=_LEAST_VARIANCE**2))


def _solve(scatter: Tensor, ridge: Tensor, means: Tensor) -> Tensor:
    """means (scatter^T scatter + ridge I)^-1: scatter (rows, d), means (ways, d) -> (ways, d)."""
    rows, dimensions = scatter.shape
    if rows < dimensions:  # invert a matrix of rows instead of one of features (Woodbury)
        gram = scatter @ scatter.T + ridge * torch.eye(rows, device=scatter.device)
        inner = torch.cholesky_solve(scatter @ means.T, torch.linalg.cholesky(gram))
        return (means - inner.T @ scatter) / ridge
    covariance = scatter.T @ scatter + ridge * torch.eye(dimensions, device=scatter.device)
    return torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance)).T


def linear_head(feature_count: int, ways: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a head for one task with a fixed number of classes, for meta-training (Glorot & Bengio 2010, uniform)."""
    bound = (6.0 / (feature_count + ways)) ** 0.5
    drawn = torch.rand(ways, feature_count, generator=generator)
    return {WEIGHT: (2 * drawn - 1) * bound, BIAS: torch.zeros(ways)}


def logits(weights: Weights, features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Compute class scores (tasks, batch, ways) of features (tasks, batch, features).

    Args:
        weights: with the head's weight and bias, stacked.
        features: (tasks, batch, features).
        padding_mask: bool (tasks, ways); masked rows score -inf.
    """
    scores = torch.baddbmm(weights[BIAS][:, None], features, weights[WEIGHT].transpose(1, 2))
    return scores if padding_mask is None else scores.masked_fill(padding_mask[:, None], float("-inf"))


def second_look(logits: Tensor, turned: Tensor, margin: Tensor) -> Tensor:
    """Average the scores of an image and of the image turned by 180 degrees, where the image leaves the class in doubt.

    A net with padding and strides does not see a turned image as it sees the image, so the average is more accurate.
    It counts in full where the best class leads by less than half the margin, and not at all from the margin on. In
    between its weight changes evenly: scores that rounding moves a little never jump.

    Args:
        logits: (..., batch, ways).
        turned: the scores of the turned images, (..., batch, ways).
        margin: `SECOND_LOOK`, of a shape that broadcasts to (..., batch).

    Returns:
        (..., batch, ways).
    """
    share = (2 - 2 * lead(logits) / margin).clamp(0, 1)[..., None]
    return torch.lerp(logits, (logits + turned) / 2, share)


def lead(logits: Tensor) -> Tensor:
    """By how much the best class scores above the second: (..., ways) -> (...)."""
    best = logits.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]
