"""Novelty detection: the in-distribution score and the "unknown" threshold."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from models.adaptation.adapt import adapt_one
from models.config import BACKBONE_RECIPE, NetConfig
from models.images.preprocessing import ImageConfig
from models.inference.predict import fold_calibrated, predict_images
from models.nets import BackboneNet, heads
from models.task import Support
from models.validation.novelty import in_distribution_score, unknown_threshold


def many_channels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 100, 3))


NET = BackboneNet(NetConfig("backbone", ImageConfig(3, 32), factory=f"{__name__}:many_channels", stages=("0",)))


def scores_away_from_the_support(factors: Sequence[float], without: Sequence[str] = ()) -> list[float]:
    """Scores of images that differ from the centre of a support like its first class, and more and more."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(6)
    direction = torch.randn(NET.feature_count, generator=generator)
    sign = torch.where(labels == 0, 1.0, -1.0)[:, None]
    features = 5 + sign * direction + torch.randn(12, NET.feature_count, generator=generator)
    adapted = adapt_one(NET, NET.start(), Support(features, labels, 2), BACKBONE_RECIPE, 0)
    folded = fold_calibrated(adapted.kept(), adapted.statistics)
    for name in without:
        del folded[name]
    images = 5 + torch.tensor(factors)[:, None] * direction
    scores = predict_images(NET, folded, images).in_distribution
    assert scores is not None
    return [float(score) for score in scores]


def test_the_score_keeps_falling_outside_of_the_range_of_the_support() -> None:
    inside, *outside = scores_away_from_the_support([1.0, 4.0, 8.0, 16.0, 100.0])
    assert outside == sorted(outside, reverse=True)
    assert outside[-1] < 0.1 < 0.6 < inside


def test_a_version_of_an_earlier_release_keeps_its_scores() -> None:
    scores = scores_away_from_the_support([2.0, 100.0], without=[heads.LENGTH])
    assert scores[1] == pytest.approx(scores[0], abs=0.02)  # length did not count


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
