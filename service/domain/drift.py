"""Drift: whether the images that a version judges lately are unlike those that it was validated on.

Two shares are compared with what cross-validation lets expect: of the verdict "unknown", and of errors that the version
itself expects, which is the mean of 1 - confidence. A share of n images is above an expectation p if
n * KL(share, p) > ln(1 / ALPHA). By the Chernoff bound (Hoeffding 1963, for values from 0 to 1), that has a probability
below ALPHA if p is true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from service.domain.client import ClientSettings
from service.domain.version import HELD_OUT, VersionDraft

ALPHA: Final = 0.001
"""Probability of a false alarm for one share of one period."""

UNKNOWN_RATE: Final = 0.05
"""Expected share of the verdict "unknown" if the client's setting `unknown_rate` is None."""

_CONFIDENCE: Final = 0.05
_BISECTIONS: Final = 40


@dataclass(frozen=True, slots=True)
class Expectation:
    """The highest shares that are no drift; None if they were not measured."""

    unknown: float | None
    errors: float | None

    @classmethod
    def of(cls, draft: VersionDraft, settings: ClientSettings) -> Expectation:
        """Return what the validation of a version lets expect.

        The threshold for "unknown" was measured on few samples, so its true rate may be higher than the target: it is
        the highest rate that those samples do not rule out. The same holds for the accuracy and its interval.
        """
        held_out = sum(prediction is not None for prediction in draft.report.get(HELD_OUT) or ())
        interval, threshold = draft.report.get("interval"), draft.report.get("unknown_threshold")
        target = UNKNOWN_RATE if settings.unknown_rate is None else settings.unknown_rate
        return cls(
            None if threshold is None or not held_out else highest_rate(target, held_out),
            None if interval is None else 1 - interval[0],
        )


@dataclass(frozen=True, slots=True)
class Period:
    """What a version said in a period.

    Attributes:
        since: begin of the period, UTC.
        images: number of images.
        unknown: number of those with the verdict "unknown".
        doubt: sum of 1 - confidence, the number of errors that the version expects.
    """

    since: datetime
    images: int
    unknown: int
    doubt: float

    def drifts(self, expected: Expectation) -> tuple[bool, bool]:
        """Return whether the share of "unknown", and that of expected errors, is above the expectation."""
        return (
            expected.unknown is not None and is_above(self.unknown, self.images, expected.unknown),
            expected.errors is not None and is_above(self.doubt, self.images, expected.errors),
        )


def is_above(total: float, count: int, expected: float) -> bool:
    """Whether `total` of `count` is more than an expected share explains; see the module."""
    if not count or total / count <= expected:
        return False
    return count * _divergence(total / count, expected) > math.log(1 / ALPHA)


def highest_rate(rate: float, count: int) -> float:
    """Return the highest true rate that a rate among `count` images does not rule out, with 95 % confidence."""
    low, high = rate, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if count * _divergence(rate, middle) > math.log(1 / _CONFIDENCE):
            high = middle
        else:
            low = middle
    return low


def by_hour(images: Iterable[tuple[datetime, bool, float]]) -> list[Period]:
    """Count images by the hour, oldest first. Each is its time, whether it is unknown, and its confidence."""
    hours: dict[datetime, Period] = {}
    for at, unknown, confidence in images:
        hour = hour_of(at)
        before = hours.get(hour, Period(hour, 0, 0, 0.0))
        hours[hour] = Period(hour, before.images + 1, before.unknown + unknown, before.doubt + 1 - confidence)
    return [hours[hour] for hour in sorted(hours)]


def hour_of(at: datetime) -> datetime:
    """Return the begin of the hour of a moment."""
    return at.replace(minute=0, second=0, microsecond=0)


def in_total(hours: Iterable[Period], since: datetime) -> Period:
    """Add up hours."""
    listed = list(hours)
    return Period(
        since,
        sum(each.images for each in listed),
        sum(each.unknown for each in listed),
        math.fsum(e.doubt for e in listed),
    )


def _divergence(share: float, expected: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli distributions; infinite if `expected` rules out the share."""
    terms = ((share, expected), (1 - share, 1 - expected))
    if any(p > 0 and q <= 0 for p, q in terms):
        return math.inf
    return sum(p * math.log(p / q) for p, q in terms if p > 0)
