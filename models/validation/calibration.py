"""From answers on left-out samples to honest numbers: accuracy with its interval, temperature, thresholds.

Plain statistics on logits and labels; it knows neither nets nor pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""

UNKNOWN_SHARE = 0.05
"""Share of left-out samples, all of them known, that may be called unknown."""

_TEMPERATURES = torch.logspace(-2, 2, 161, base=math.e)
_PRIOR_STRENGTH = 1.0
"""Belief that a temperature is near 1: a change by a factor of e costs so many nats."""


@dataclass(frozen=True)
class Learning:
    """What is known beforehand about left-out samples, measured on meta-training classes alone.

    `benchmarks/examination.py --fit` prints, from textures and Omniglot's training characters, how far the mean
    estimate is off for several rates and how often the interval covers for several spreads. A rate of 0.7 is off least;
    a spread of 1.15 covers often enough there, and some more is left for classes unlike these.

    Attributes:
        rate: how the odds of an error, as a share of guessing's, fall with the number of samples: as its -rate power.
            Folds learn from fewer samples than the version does, and this is what that costs.
        spread: variance of the estimate about the true accuracy, in those of as many independent answers. Above 1,
            because folds share samples and because the samples that taught a version also decide how good it is.
    """

    rate: float = 0.7
    spread: float = 1.3


LEARNING = Learning()


@dataclass(frozen=True)
class Estimate:
    """Accuracy to expect of a version, from 0 to 1, with its 95 % interval."""

    accuracy: float
    low: float
    high: float


def estimate_accuracy(
    right: Tensor, weights: Tensor, trained_share: float, n_way: int, learning: Learning = LEARNING
) -> Estimate:
    """Estimate a version's accuracy from what folds of its samples got right.

    Accuracy and `interval`, for as many answers as count, less what `learning.spread` takes, are moved along the
    learning curve from the folds' number of samples to the version's.

    Args:
        right: bool (answers,).
        weights: (answers,), how much each counts; copies of one picture share a weight of 1.
        trained_share: samples that a fold learned from, as a share of the version's.
        n_way: number of classes; guessing gets 1 / n_way right.
        learning: see `Learning`.
    """
    counted = float(weights.sum())
    share = float((weights * right).sum()) / counted
    low, high = interval(share, counted / learning.spread)
    odds = trained_share**learning.rate
    return Estimate(*(_further(accuracy, odds, n_way) for accuracy in (share, low, high)))


def interval(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share seen in `count` answers: Wilson's, wider by half an answer, the grain of so few.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1.
    """
    square = Z_95**2 / count
    centre = (share + square / 2) / (1 + square)
    half = Z_95 / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count)) + 0.5 / count
    return max(0.0, centre - half), min(1.0, centre + half)


def _further(accuracy: float, odds: float, n_way: int) -> float:
    """Multiply the odds of an error, as a share of guessing's, by `odds`; what guesses, or never errs, stays."""
    guessing = 1 - 1 / n_way
    error = (1 - accuracy) / guessing
    if error >= 1:
        return accuracy
    return 1 - guessing * odds * error / (1 - error + odds * error)


def fit_temperature(logits: Tensor, labels: Tensor, prior_strength: float = _PRIOR_STRENGTH) -> float:
    """The temperature that makes left-out labels likeliest (Guo et al. 2017, section 4.2), drawn towards 1.

    With few samples, or none judged wrong, likelihood alone would run to an extreme; the pull is worth
    `prior_strength` nats for a factor of e, so that many samples overrule it.

    Args:
        logits: (samples, n_way).
        labels: int64 (samples,).
    """
    scaled = logits[None] / _TEMPERATURES[:, None, None]  # (temperatures, samples, n_way)
    chosen = F.log_softmax(scaled, -1).gather(-1, labels[None, :, None].expand(len(_TEMPERATURES), -1, 1))
    loss = -chosen.sum((1, 2)) + prior_strength * _TEMPERATURES.log().square()
    return float(_TEMPERATURES[loss.argmin()])


def unknown_threshold(familiarity: Tensor) -> float:
    """The familiarity that all but a share of left-out samples reach: (samples,) -> a number from 0 to 1."""
    return float(torch.quantile(familiarity.to(torch.float64), UNKNOWN_SHARE))


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal bins of confidence (Guo et al. 2017, section 2).

    Args:
        confidence: (answers,), probability of the named class.
        right: bool (answers,).
        bins: of equal width.
    """
    place = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins).index_add_(0, place, confidence - right.to(confidence.dtype))
    return float(gaps.abs().sum() / len(confidence))


def auroc(familiar: Tensor, strange: Tensor) -> float:
    """Probability that one of `familiar` scores above one of `strange`, ties half (Mann & Whitney 1947)."""
    above = (familiar[:, None] > strange).double() + 0.5 * (familiar[:, None] == strange).double()
    return float(above.mean())
