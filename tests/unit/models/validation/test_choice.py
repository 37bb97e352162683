"""Cross-validation chooses between the recipes of an LDA head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.adaptation.adapt import Adapted
from models.config import BACKBONE_RECIPE, NetConfig
from models.images.preprocessing import ImageConfig
from models.nets import BackboneNet
from models.task import Support
from models.validation.cross_validation import Candidate, CrossValidationResult, CrossValidator

CHANNELS = 100
AUTO = replace(BACKBONE_RECIPE, feature_gains="auto")


def many_channels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 3))


@pytest.fixture(scope="module")
def net() -> BackboneNet:
    config = NetConfig("backbone", ImageConfig(3, 32), factory=f"{__name__}:many_channels", stages=("0",))
    return BackboneNet(config)


def support(net: BackboneNet, per_class: int, telling: int, seed: int = 0) -> Support:
    """Three classes that differ in the first `telling` features only."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    features: Tensor = torch.randn(len(labels), net.feature_count, generator=generator)
    centres = torch.randn(3, telling, generator=generator) * 3
    features[:, :telling] = centres[labels] + 0.1 * features[:, :telling]
    return Support(features, labels, 3)


def chosen(net: BackboneNet, task: Support) -> str:
    candidate = CrossValidator(net, net.start()).adapt(task, AUTO, 0, torch.arange(len(task)))
    return candidate.recipe.feature_gains


def test_gains_are_chosen_where_few_features_tell_the_classes_apart(net: BackboneNet) -> None:
    assert chosen(net, support(net, 6, telling=2)) == "fisher"


def test_gains_are_not_chosen_where_they_predict_no_more_samples(net: BackboneNet) -> None:
    assert chosen(net, support(net, 6, telling=200)) == "none"


def test_without_folds_there_are_no_gains(net: BackboneNet) -> None:
    assert chosen(net, support(net, 1, telling=2)) == "none"


def test_the_chosen_version_and_its_folds_are_those_of_the_recipe_alone(net: BackboneNet) -> None:
    task = support(net, 6, telling=2)
    validator, groups = CrossValidator(net, net.start()), torch.arange(len(task))
    automatic = validator.adapt(task, AUTO, 0, groups)
    alone = validator.adapt(task, replace(AUTO, feature_gains="fisher"), 0, groups)
    assert torch.equal(automatic.adapted.weights["head.weight"], alone.adapted.weights["head.weight"])
    scores = [validator.score(candidate) for candidate in (automatic, alone)]
    assert isinstance(scores[0], CrossValidationResult)
    assert isinstance(scores[1], CrossValidationResult)
    assert scores[0].held_out == scores[1].held_out


def predicting(candidate: Candidate, predicted: Tensor) -> Candidate:
    """Return the candidate with folds that predict these classes for its samples, whose features are one-hot."""
    weights = torch.zeros(3, candidate.support.inputs.shape[1])
    weights[predicted, torch.arange(len(predicted))] = 1.0
    folds = [
        replace(
            fold,
            weights={**fold.weights, "head.weight": weights, "head.bias": torch.zeros(3)},
            statistics={"pooled.mean": torch.zeros(weights.shape[1]), "pooled.variance": torch.ones(weights.shape[1])},
        )
        for fold in candidate.fold_results
        if isinstance(fold, Adapted)
    ]
    return replace(candidate, fold_results=tuple(folds))


@pytest.mark.parametrize(("small_classes_right", "wins"), [(0, False), (4, True)])
def test_a_recipe_that_is_better_in_a_large_class_only_is_not_chosen(
    net: BackboneNet, small_classes_right: int, wins: bool
) -> None:
    labels = torch.tensor([0] * 12 + [1] * 4 + [2] * 4)
    task = Support(torch.eye(len(labels), net.feature_count), labels, 3)
    validator = CrossValidator(net, net.start())
    candidate = validator.adapt(task, replace(AUTO, feature_gains="none"), 0, torch.arange(len(labels)))
    first, other = labels.clone(), labels.clone()
    first[:7] = 1  # 5 of 12, 4 of 4, 4 of 4
    other[16 + small_classes_right :] = 0  # 12 of 12, 4 of 4, none or all of 4
    candidates = [predicting(candidate, first), predicting(candidate, other)]
    assert validator.choose(candidates) is candidates[wins]


def with_margin(candidate: Candidate, margin: float) -> Candidate:
    """Return the candidate with folds that take a second look where the best class leads by less than `margin`."""
    folds = [fold for fold in candidate.fold_results if isinstance(fold, Adapted)]
    second_look = {"head.second_look": torch.tensor(margin)}
    return replace(
        candidate, fold_results=tuple(replace(fold, weights={**fold.weights, **second_look}) for fold in folds)
    )


def test_held_out_samples_get_the_second_look_that_predictions_get(net: BackboneNet) -> None:
    labels = torch.arange(2).repeat_interleave(6)
    first, turned = torch.eye(2 * len(labels), net.feature_count).chunk(2)
    samples = first + turned / 2  # predicted wrong by the larger feature, and right if only the other one is seen
    task = Support(torch.cat([samples, samples, samples, turned]), labels.repeat(4), 2, views=4)
    validator = CrossValidator(net, net.start())
    candidate = validator.adapt(task, replace(AUTO, feature_gains="none"), 0, torch.arange(len(labels)))
    misled = predicting(candidate, torch.cat([1 - labels, labels]))
    candidates = [with_margin(misled, 0.001), with_margin(misled, 100.0)]
    assert validator.choose(candidates) is candidates[1]
