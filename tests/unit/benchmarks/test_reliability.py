"""Reliability and errors against coverage of known predictions."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reliability import plot, reliability, risk_coverage

CONFIDENCES = torch.tensor([0.95] * 20 + [0.55] * 40 + [0.05])
HITS = torch.tensor([True] * 20 + [True, False] * 20 + [False])
JUDGED = (CONFIDENCES, HITS)


def test_a_bin_has_the_share_of_right_predictions_unless_too_few_images_are_in_it() -> None:
    low, high = reliability(JUDGED)
    assert low == pytest.approx((0.55, 0.5))
    assert high == pytest.approx((0.95, 1.0))


def test_the_most_confident_images_are_answered_first() -> None:
    coverage, risk = risk_coverage(JUDGED)
    assert float(coverage[19]) == pytest.approx(20 / 61)
    assert float(risk[19]) == 0
    assert float(risk[-1]) == pytest.approx(21 / 61)


def test_the_picture_has_a_column_for_each_part() -> None:
    pytest.importorskip("matplotlib")
    one, two = (plot({title: {"point": JUDGED} for title in titles}) for titles in ("a", "ab"))
    widths = [int.from_bytes(png[16:20], "big") for png in (one, two)]
    assert widths == [320, 640]
