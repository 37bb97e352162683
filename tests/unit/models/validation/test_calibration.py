"""Accuracy with its interval, temperature and thresholds from answers on left-out samples."""

from __future__ import annotations

import pytest
import torch

from models.validation.calibration import (
    Learning,
    auroc,
    estimate_accuracy,
    expected_calibration_error,
    fit_temperature,
    interval,
    unknown_threshold,
)

PLAIN = Learning(rate=0.0, spread=1.0)


def right(of: int, answers: int) -> torch.Tensor:
    return torch.arange(answers) < of


def test_without_a_correction_the_estimate_is_the_share_judged_right() -> None:
    assert estimate_accuracy(right(40, 50), torch.ones(50), 0.67, 5, PLAIN).accuracy == pytest.approx(0.8)


def test_what_more_samples_would_add_is_added_and_stays_within_bounds() -> None:
    plain = estimate_accuracy(right(40, 50), torch.ones(50), 0.67, 5, PLAIN)
    further = estimate_accuracy(right(40, 50), torch.ones(50), 0.67, 5, Learning(rate=0.8, spread=1.0))
    assert plain.accuracy < further.accuracy < 0.87
    assert plain.low < further.low < further.accuracy < further.high <= 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 1.0])
def test_an_estimate_of_guessing_or_of_perfection_is_not_moved(share: float) -> None:
    got = estimate_accuracy(right(int(50 * share), 50), torch.ones(50), 0.67, 5, Learning(rate=0.8))
    assert got.accuracy == pytest.approx(share)


def test_copies_of_a_picture_count_once() -> None:
    answers = torch.tensor([True, True, True, True, False])
    once = estimate_accuracy(answers, torch.tensor([0.25, 0.25, 0.25, 0.25, 1.0]), 1.0, 2, PLAIN)
    assert once.accuracy == pytest.approx(0.5)
    assert once.high - once.low > 0.9


def test_an_interval_narrows_with_more_answers_and_reaches_both_ends() -> None:
    widths = [high - low for low, high in (interval(0.8, count) for count in (5, 20, 80, 320))]
    assert widths == sorted(widths, reverse=True)
    assert interval(1.0, 10)[1] == 1.0
    assert interval(0.0, 10)[0] == 0.0
    assert 0.6 < interval(1.0, 10)[0] < 0.75


def test_an_interval_covers_what_it_was_drawn_from() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        share = float((torch.rand(30, generator=generator) < 0.85).double().mean())
        low, high = interval(share, 30)
        covered += low <= 0.85 <= high
    assert covered / 400 >= 0.95


def test_overconfident_logits_get_a_high_temperature_and_timid_ones_a_low_one() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (400,), generator=generator)
    logits = torch.nn.functional.one_hot(labels, 3) * 2.0 + torch.randn(400, 3, generator=generator)
    assert fit_temperature(20 * logits, labels) > 5
    assert fit_temperature(0.1 * logits, labels) < 0.3


def test_a_handful_judged_right_does_not_run_away_to_certainty() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    assert 0.3 < fit_temperature(logits, torch.tensor([0, 1, 0])) < 1


def test_the_temperature_makes_confidence_agree_with_accuracy() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (2000,), generator=generator)
    logits = 6 * (torch.nn.functional.one_hot(labels, 4) + 0.9 * torch.randn(2000, 4, generator=generator))
    confidence, named = (logits / fit_temperature(logits, labels)).softmax(-1).max(-1)
    raw, _ = logits.softmax(-1).max(-1)
    assert expected_calibration_error(confidence, named == labels) < 0.04
    assert expected_calibration_error(raw, named == labels) > 0.1


def test_nineteen_of_twenty_left_out_samples_stay_known() -> None:
    familiarity = torch.linspace(0, 1, 201)
    assert float((familiarity < unknown_threshold(familiarity)).double().mean()) == pytest.approx(0.05, abs=0.005)


def test_auroc_counts_pairs_in_the_right_order_and_ties_half() -> None:
    assert auroc(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5])) == pytest.approx(3.5 / 4)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence, answers = torch.full((10,), 0.9), torch.arange(10) < 6
    assert expected_calibration_error(confidence, answers) == pytest.approx(0.3, abs=1e-6)
