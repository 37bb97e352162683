"""Novelty detection: the in-distribution score and the "unknown" threshold."""

from __future__ import annotations

import pytest
import torch

from models.validation.novelty import in_distribution_score, unknown_threshold


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_the_threshold_leaves_the_share_of_held_out_samples_below_it(share: float) -> None:
    scores = torch.linspace(0, 1, 201)
    assert float((scores < unknown_threshold(scores, share)).double().mean()) == pytest.approx(share, abs=0.005)


def test_19_of_20_held_out_samples_stay_known() -> None:
    scores = torch.linspace(0, 1, 201)
    assert float((scores < unknown_threshold(scores)).double().mean()) == pytest.approx(0.05, abs=0.005)


def test_the_score_is_1_at_a_class_mean_and_falls_with_distance_and_doubt() -> None:
    assert float(in_distribution_score(torch.tensor(0.9), torch.tensor(0.0))) == 1.0
    scores = in_distribution_score(torch.tensor([0.9, 0.9, 0.5]), torch.tensor([1.0, 5.0, 5.0])).tolist()
    assert scores == sorted(scores, reverse=True)
