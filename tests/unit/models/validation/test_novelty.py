"""Novelty detection: the in-distribution score and the "unknown" threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from models.adaptation.adapt import adapt_one
from models.config import BACKBONE_RECIPE, InnerLoopConfig, NetConfig
from models.images.preprocessing import ImageConfig
from models.inference.predict import fold_calibrated, predict_images
from models.nets import BackboneNet, heads
from models.task import Support
from models.validation.novelty import distance_to_predicted_mean, in_distribution_score, unknown_threshold


def many_channels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 100, 3))


NET = BackboneNet(NetConfig("backbone", ImageConfig(3, 32), factory=f"{__name__}:many_channels", stages=("0",)))


@dataclass(frozen=True)
class Adaptation:
    """Folded weights, and the direction in which a support's first class differs from its centre."""

    weights: dict[str, Tensor]
    direction: Tensor

    def scores(self, factors: Sequence[float]) -> list[float]:
        """Scores of images that differ from the centre like the first class, times a factor each."""
        scores = predict_images(NET, self.weights, 5 + torch.tensor(factors)[:, None] * self.direction).in_distribution
        assert scores is not None
        return [float(score) for score in scores]


def adapted(recipe: InnerLoopConfig = BACKBONE_RECIPE, without: Sequence[str] = ()) -> Adaptation:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(6)
    direction = torch.randn(NET.feature_count, generator=generator)
    sign = torch.where(labels == 0, 1.0, -1.0)[:, None]
    features = 5 + sign * direction + torch.randn(12, NET.feature_count, generator=generator)
    version = adapt_one(NET, NET.start(), Support(features, labels, 2), recipe, 0)
    folded = fold_calibrated(version.kept(), version.statistics)
    return Adaptation({name: tensor for name, tensor in folded.items() if name not in without}, direction)


def test_the_score_keeps_falling_outside_of_the_range_of_the_support() -> None:
    inside, *outside = adapted().scores([1.0, 4.0, 8.0, 16.0, 100.0])
    assert outside == sorted(outside, reverse=True)
    assert outside[-1] < 0.1 < 0.6 < inside


def test_a_version_of_an_earlier_release_keeps_its_scores() -> None:
    scores = adapted(without=[heads.LENGTH]).scores([2.0, 100.0])
    assert scores[1] == pytest.approx(scores[0], abs=0.02)  # length did not count


@pytest.mark.parametrize("head", ["lda", "prototype"])
def test_the_score_of_an_image_does_not_depend_on_the_other_images(head: Literal["lda", "prototype"]) -> None:
    version = adapted(replace(BACKBONE_RECIPE, head=head))
    factors = [1.0, -1.0, 0.2, -8.0]
    alone = [version.scores([factor])[0] for factor in factors]
    assert version.scores(factors) == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 3) for score in alone}) == len(factors)


@pytest.mark.parametrize("factor", [0.1, 1.0, 30.0])
def test_distances_to_class_means_count_in_distances_between_the_classes(factor: float) -> None:
    means = factor * torch.tensor([[0.0, 0.0], [4.0, 0.0]])  # 2 from their centre each
    images = factor * torch.tensor([[1.0, 0.0], [4.0, 2.0], [4.0, 0.0]])
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    weights = {heads.MEANS: means[None], heads.GAIN: heads.class_means_gain(means)[None]}
    distance = distance_to_predicted_mean(weights, images[None], logits[None])
    assert distance[0].tolist() == pytest.approx([0.25, 1.0, 0.0])


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
