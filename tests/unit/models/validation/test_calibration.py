"""Accuracy estimate with its interval, and temperature, from held-out predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from models.validation.calibration import (
    HeldOutLabels,
    LearningCurvePrior,
    estimate_accuracy,
    expected_calibration_error,
    fit_averaged_temperature,
    fit_temperature,
    wilson_interval,
)

NO_CORRECTION = LearningCurvePrior(rate=0.0, variance_factor=1.0)


def held_out(correct: Sequence[int], totals: Sequence[int], pictures: int = 1) -> HeldOutLabels:
    """Predictions for that many parts of each class, `correct` of which are right, with some pictures of each part."""
    labels = torch.arange(len(totals)).repeat_interleave(torch.tensor(totals))
    right = torch.cat([torch.arange(total) < count for count, total in zip(correct, totals, strict=True)])
    return HeldOutLabels(right.repeat(pictures), labels.repeat(pictures), torch.arange(len(labels)).repeat(pictures))


FOLDS = held_out([8] * 5, [10] * 5)


def test_without_correction_the_estimate_is_the_share_of_correct_predictions() -> None:
    assert estimate_accuracy(FOLDS, 0.67, 5, NO_CORRECTION).accuracy == pytest.approx(0.8)


def test_the_learning_curve_raises_the_estimate_and_its_interval() -> None:
    uncorrected = estimate_accuracy(FOLDS, 0.67, 5, NO_CORRECTION)
    corrected = estimate_accuracy(FOLDS, 0.67, 5, LearningCurvePrior(rate=0.8, variance_factor=1.0))
    assert uncorrected.accuracy < corrected.accuracy < 0.87
    assert uncorrected.low < corrected.low < corrected.accuracy < corrected.high <= 1


def test_a_variance_factor_widens_the_interval_as_fewer_predictions_would() -> None:
    spread = LearningCurvePrior(rate=0.0, variance_factor=4.0)
    estimate = estimate_accuracy(held_out([16] * 5, [20] * 5), 1.0, 5, spread)
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(0.8, 25))
    assert estimate.accuracy == pytest.approx(0.8)


def test_the_default_interval_is_wider_than_that_of_independent_predictions() -> None:
    estimate = estimate_accuracy(held_out([16] * 5, [20] * 5), 1.0, 5)
    low, high = wilson_interval(0.8, 100)
    assert estimate.low < low < high < estimate.high


def test_the_interval_is_wilsons() -> None:
    """8 of 10: Wilson's 0.490 to 0.943 (Brown, Cai & DasGupta 2001), and half a prediction of ten to each side."""
    assert wilson_interval(0.8, 10) == pytest.approx((0.440, 0.993), abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 1.0])
def test_estimates_at_chance_or_at_1_are_not_corrected(share: float) -> None:
    estimate = estimate_accuracy(held_out([int(10 * share)] * 5, [10] * 5), 0.67, 5, LearningCurvePrior(rate=0.8))
    assert estimate.accuracy == pytest.approx(share)


def test_the_pictures_of_a_part_count_as_one() -> None:
    once = held_out([3, 4], [5, 6])
    thrice = held_out([3, 4], [5, 6], pictures=3)
    assert estimate_accuracy(thrice, 0.67, 2) == estimate_accuracy(once, 0.67, 2)
    many_of_one = HeldOutLabels(
        torch.tensor([True, True, True, True, False]), torch.zeros(5, dtype=torch.int64), torch.tensor([0, 0, 0, 0, 1])
    )
    assert estimate_accuracy(many_of_one, 1.0, 2, NO_CORRECTION).accuracy == pytest.approx(0.5)


def test_a_part_with_two_labels_counts_in_both_classes() -> None:
    labels, groups = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 2])
    accuracies, parts = HeldOutLabels(torch.tensor([True, False, True, True]), labels, groups).by_class()
    assert (accuracies.tolist(), parts.tolist()) == ([1.0, 0.5], [2.0, 2.0])


@pytest.mark.parametrize("totals", [(58, 6), (50, 2)])
def test_always_predicting_the_most_frequent_class_scores_at_chance(totals: tuple[int, int]) -> None:
    assert estimate_accuracy(held_out([totals[0], 0], totals), 0.67, 2).accuracy == pytest.approx(0.5)


def test_the_interval_of_unequal_classes_is_as_wide_as_the_rare_class_makes_it() -> None:
    equal, unequal = (estimate_accuracy(held_out(totals, totals), 0.67, 2) for totals in ((26, 26), (50, 2)))
    assert unequal.low < 0.7 < 0.85 < equal.low


def test_the_interval_of_a_balanced_accuracy_covers_it() -> None:
    generator = torch.Generator().manual_seed(0)
    totals, shares = (40, 5), (0.95, 0.7)
    covered = 0
    for _ in range(300):
        counts = [
            int((torch.rand(total, generator=generator) < share).sum())
            for total, share in zip(totals, shares, strict=True)
        ]
        estimate = estimate_accuracy(held_out(counts, totals), 1.0, 2)
        covered += estimate.low <= sum(shares) / 2 <= estimate.high
    assert covered / 300 >= 0.95


def test_the_interval_narrows_with_more_predictions_and_reaches_0_and_1() -> None:
    widths = [high - low for low, high in (wilson_interval(0.8, count) for count in (5, 20, 80, 320))]
    assert widths == sorted(widths, reverse=True)
    assert wilson_interval(1.0, 10)[1] == 1.0
    assert wilson_interval(0.0, 10)[0] == 0.0
    assert 0.6 < wilson_interval(1.0, 10)[0] < 0.75


def test_the_interval_covers_the_true_share() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        share = float((torch.rand(30, generator=generator) < 0.85).double().mean())
        low, high = wilson_interval(share, 30)
        covered += low <= 0.85 <= high
    assert covered / 400 >= 0.95


def test_overconfident_logits_get_a_high_temperature_and_underconfident_ones_a_low_one() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (400,), generator=generator)
    logits = torch.nn.functional.one_hot(labels, 3) * 2.0 + torch.randn(400, 3, generator=generator)
    assert fit_temperature(20 * logits, labels) > 5
    assert fit_temperature(0.1 * logits, labels) < 0.3


def test_a_few_correct_predictions_do_not_give_an_extreme_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    assert 0.3 < fit_temperature(logits, torch.tensor([0, 1, 0])) < 1


@pytest.mark.parametrize("margin", [0.5, 2.0, 6.0])
def test_a_temperature_a_factor_of_e_away_from_1_costs_one_nat(margin: float) -> None:
    """Two samples, predicted right, with logits that differ by `margin`."""
    exponents = [step / 100 for step in range(-200, 201)]
    costs = [2 * math.log1p(math.exp(-margin / math.exp(each))) + each**2 for each in exponents]
    logits = torch.tensor([[margin, 0.0], [0.0, margin]])
    fitted = math.log(fit_temperature(logits, torch.tensor([0, 1])))
    assert fitted == pytest.approx(exponents[costs.index(min(costs))], abs=0.02)


def test_the_temperature_calibrates_confidence() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (2000,), generator=generator)
    logits = 6 * (torch.nn.functional.one_hot(labels, 4) + 0.9 * torch.randn(2000, 4, generator=generator))
    confidence, predicted = (logits / fit_temperature(logits, labels)).softmax(-1).max(-1)
    raw, _ = logits.softmax(-1).max(-1)
    assert expected_calibration_error(confidence, predicted == labels) < 0.04
    assert expected_calibration_error(raw, predicted == labels) > 0.1


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence, correct = torch.full((10,), 0.9), torch.arange(10) < 6
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.3, abs=1e-6)


def test_gaps_of_different_bins_do_not_cancel() -> None:
    confidence = torch.tensor([0.9] * 10 + [0.95] * 10)
    correct = torch.arange(20) < 15  # all of the first bin, half of the last one
    assert expected_calibration_error(confidence, correct) == pytest.approx((10 * 0.1 + 10 * 0.45) / 20, abs=1e-6)


def test_the_temperature_of_averaged_probabilities_is_that_of_the_softmax_where_nothing_is_averaged() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(4, (300,), generator=generator)
    logits = 6 * torch.nn.functional.one_hot(labels, 4) + 4 * torch.randn(300, 4, generator=generator)
    found = fit_averaged_temperature(lambda temperature: (logits / temperature).softmax(-1), labels)
    assert found == pytest.approx(fit_temperature(logits, labels), rel=0.06)
