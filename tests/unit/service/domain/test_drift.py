"""Drift: what is above the expectation, what chance explains, and what validation lets expect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.domain.client import ClientSettings
from service.domain.drift import Expectation, Period, by_hour, highest_rate, in_total, is_above
from tests.contract.values import a_draft

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_three_unknown_of_twenty_images_are_no_drift_and_thirty_of_two_hundred_are() -> None:
    assert not is_above(3, 20, 0.05)
    assert is_above(30, 200, 0.05)
    assert not is_above(0, 0, 0.05)
    assert not is_above(2, 200, 0.05)
    assert is_above(1, 1, 0.0)


@pytest.mark.parametrize(("count", "rate"), [(20, 0.05), (20, 0.2), (500, 0.05)])
def test_images_as_expected_raise_hardly_any_alarm(count: int, rate: float) -> None:
    drawn = np.random.default_rng(0).binomial(count, rate, 20_000)
    assert np.mean([is_above(float(total), count, rate) for total in drawn]) < 0.001


def test_few_samples_leave_a_high_rate_possible() -> None:
    assert highest_rate(0.05, 10) > highest_rate(0.05, 40) > highest_rate(0.05, 4000) > 0.05
    assert highest_rate(0.05, 4000) < 0.07


def test_the_expectation_comes_from_the_validation_of_the_version_and_the_setting() -> None:
    held_out = [[0, 0.9, True]] * 20 + [None]
    report = {"held_out": held_out, "interval": [0.8, 0.95], "unknown_threshold": 0.4}
    expected = Expectation.of(a_draft(report=report), ClientSettings())
    assert expected.unknown == highest_rate(0.05, 20)
    assert expected.errors == pytest.approx(0.2)
    more = Expectation.of(a_draft(report=report), ClientSettings(unknown_rate=0.1))
    assert more.unknown == highest_rate(0.1, 20)
    assert Expectation.of(a_draft(report={}), ClientSettings()) == Expectation(None, None)


def test_images_are_counted_by_the_hour() -> None:
    images = [(NOON + timedelta(minutes=minute), minute > 60, 0.75) for minute in (61, 0, 59, 62)]
    first, second = by_hour(images)
    assert first == Period(NOON, 2, 0, 0.5)
    assert second == Period(NOON + timedelta(hours=1), 2, 2, 0.5)
    assert in_total([first, second], NOON) == Period(NOON, 4, 2, 1.0)


def test_a_share_without_an_expectation_never_drifts() -> None:
    period = Period(NOON, 1000, 1000, 1000.0)
    assert period.drifts(Expectation(None, None)) == (False, False)
    assert period.drifts(Expectation(0.1, None)) == (True, False)
    assert period.drifts(Expectation(None, 0.1)) == (False, True)
