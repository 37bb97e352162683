"""Accuracy estimate with its interval, and temperature, from predictions on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""

_TEMPERATURES = torch.logspace(-2, 2, 161, base=math.e)
_EVERY = 4
"""Averaged probabilities take longer, and every fourth temperature, 10 % apart, is close enough."""
_LEAST_PROBABILITY = 1e-12
_PRIOR_STRENGTH = 1.0
"""Nats that a temperature a factor of e away from 1 costs."""


@dataclass(frozen=True, slots=True)
class LearningCurvePrior:
    """How accuracy grows with the number of samples, fitted on meta-training classes.

    `benchmarks/cross_validation.py --fit` prints the bias of the estimate for several rates and the coverage of the
    interval for several variance factors, on textures and Omniglot's training characters. A rate of 0.7 has the least
    bias. A variance factor of 1.15 covers often enough there; the default leaves a margin for other classes.

    Attributes:
        rate: the odds of an error, relative to chance, fall with the number of samples to the power of -rate. Folds
            train on fewer samples than the version, and this corrects for it.
        variance_factor: variance of the estimate relative to independent predictions. Above 1 because folds share
            samples, and because the samples that train a version also determine how good it is.
    """

    rate: float = 0.7
    variance_factor: float = 1.3


DEFAULT_PRIOR = LearningCurvePrior()


@dataclass(frozen=True, slots=True)
class AccuracyEstimate:
    """Expected balanced accuracy of a version, 0 to 1, with its 95 % interval."""

    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class HeldOutLabels:
    """Labels of held-out samples, and which of them were predicted correctly.

    Attributes:
        correct: bool (samples,).
        labels: int64 (samples,).
        groups: int64 (samples,), equal for samples that show one part.
    """

    correct: Tensor
    labels: Tensor
    groups: Tensor

    def by_class(self) -> tuple[Tensor, Tensor]:
        """Accuracy and number of parts of each class that has samples, float64 (classes,) each.

        The pictures of a part count together as one.
        """
        label_and_group = torch.stack([self.labels, self.groups])  # (2, samples)
        pairs, member, pictures = torch.unique(label_and_group, dim=1, return_inverse=True, return_counts=True)
        share = torch.zeros(len(pictures), dtype=torch.float64).index_add_(0, member, self.correct.double()) / pictures
        _, label, parts = torch.unique(pairs[0], return_inverse=True, return_counts=True)
        return torch.zeros(len(parts), dtype=torch.float64).index_add_(0, label, share) / parts, parts.double()


def estimate_accuracy(
    held_out: HeldOutLabels, train_share: float, n_way: int, prior: LearningCurvePrior = DEFAULT_PRIOR
) -> AccuracyEstimate:
    """Estimate a version's balanced accuracy from the held-out predictions of its folds.

    Balanced accuracy is the mean of the classes' accuracies, so it does not depend on how many samples each class has:
    always predicting the most frequent class scores 1 / n_way. Its variance is that of a mean of proportions, as if
    the classes were recognised equally well. The accuracy of the folds and its interval are extrapolated along the
    learning curve from the folds' number of samples to the version's.

    Args:
        held_out: at least one sample.
        train_share: share of the version's samples that a fold trains on.
        n_way: number of classes; chance is 1 / n_way.
        prior: see `LearningCurvePrior`.
    """
    accuracies, parts = held_out.by_class()
    share = float(accuracies.mean())
    effective_count = len(parts) ** 2 / float((1 / parts).sum())
    low, high = wilson_interval(share, effective_count / prior.variance_factor)
    odds = train_share**prior.rate
    return AccuracyEstimate(*(_extrapolate(accuracy, odds, n_way) for accuracy in (share, low, high)))


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share among `count` predictions, with continuity correction of half a prediction.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1.
    """
    square = Z_95**2 / count
    centre = (share + square / 2) / (1 + square)
    half = Z_95 / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count)) + 0.5 / count
    return max(0.0, centre - half), min(1.0, centre + half)


def _extrapolate(accuracy: float, odds: float, n_way: int) -> float:
    """Multiply the odds of an error, relative to chance, by `odds`; accuracies of chance or 1 stay unchanged."""
    chance_error = 1 - 1 / n_way
    error = (1 - accuracy) / chance_error
    if error >= 1:
        return accuracy
    return 1 - chance_error * odds * error / (1 - error + odds * error)


Probabilities = Callable[[float], Tensor]
"""Temperature -> probabilities of held-out samples, (samples, n_way)."""


def fit_averaged_temperature(probabilities: Probabilities, labels: Tensor) -> float:
    """`fit_temperature` for probabilities that are averaged over a posterior and so are no softmax of logits.

    Args:
        probabilities: of the held-out samples, at a temperature.
        labels: int64 (samples,).
    """
    temperatures = _TEMPERATURES[::_EVERY]
    losses = []
    for temperature in temperatures.tolist():
        chosen = probabilities(temperature).gather(-1, labels[:, None])
        losses.append(-chosen.clamp(min=_LEAST_PROBABILITY).log().sum())
    loss = torch.stack(losses) + _PRIOR_STRENGTH * temperatures.log().square()
    return float(temperatures[loss.argmin()])


def fit_temperature(logits: Tensor, labels: Tensor, prior_strength: float = _PRIOR_STRENGTH) -> float:
    """Fit a softmax temperature on held-out samples (Guo et al. 2017, section 4.2) with a prior around 1.

    With few samples, or without errors, the likelihood alone would lead to extreme temperatures.

    Args:
        logits: (samples, n_way).
        labels: int64 (samples,).
        prior_strength: nats that a temperature a factor of e away from 1 costs.
    """
    scaled = logits[None] / _TEMPERATURES[:, None, None]  # (temperatures, samples, n_way)
    chosen = F.log_softmax(scaled, -1).gather(-1, labels[None, :, None].expand(len(_TEMPERATURES), -1, 1))
    loss = -chosen.sum((1, 2)) + prior_strength * _TEMPERATURES.log().square()
    return float(_TEMPERATURES[loss.argmin()])


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width (Guo et al. 2017, section 2).

    Args:
        confidence: (predictions,), probability of the predicted class.
        correct: bool (predictions,).
        bins: number of bins.
    """
    bin_index = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins).index_add_(0, bin_index, confidence - correct.to(confidence.dtype))
    return float(gaps.abs().sum() / len(confidence))
