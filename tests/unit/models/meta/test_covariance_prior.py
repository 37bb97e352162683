"""Learning a covariance prior from the classes of many tasks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.adaptation.adapt import adapt_one
from models.config import BACKBONE_RECIPE, NetConfig
from models.errors import InvalidTask
from models.images.preprocessing import ImageConfig
from models.inference.predict import fold_calibrated, predict_images
from models.meta.covariance_prior import CovarianceTraining, EmbeddedDataset, learn_covariance_prior
from models.nets import BackboneNet
from models.task import Support

FEATURES = 38
"""Four of each of eight channels, and two of each colour."""

NUISANCE = 5
"""A feature in which every class varies."""


def eight_channels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3))


def net() -> BackboneNet:
    config = NetConfig("backbone", ImageConfig(3, 32), factory=f"{__name__}:eight_channels", stages=("0",))
    return BackboneNet(config)


def images_of_a_class(generator: torch.Generator, count: int) -> Tensor:
    """Features around the centre of a class: (count, features)."""
    spread = torch.full((FEATURES,), 0.9)
    spread[NUISANCE] = 6.0
    centre = torch.randn(FEATURES, generator=generator)
    return centre + spread * torch.randn(count, FEATURES, generator=generator)


def dataset(seed: int, classes: int = 6, count: int = 25) -> EmbeddedDataset:
    generator = torch.Generator().manual_seed(seed)
    return EmbeddedDataset(f"set {seed}", [images_of_a_class(generator, count)[None] for _ in range(classes)])


TRAINING = CovarianceTraining(tasks=16, rank=4)


def test_the_largest_direction_is_the_one_in_which_all_classes_vary() -> None:
    prior = learn_covariance_prior(net(), [dataset(1), dataset(2)], TRAINING)
    assert prior.directions.shape == (4, FEATURES)
    assert int(prior.directions[0].abs().argmax()) == NUISANCE
    assert float(prior.variance.argmax()) == NUISANCE


def test_the_prior_helps_where_one_image_a_class_cannot_show_the_variation() -> None:
    plain, tuned = net(), net()
    tuned.use_prior(learn_covariance_prior(net(), [dataset(1), dataset(2)], TRAINING))
    accuracies = []
    for own in (plain, tuned):
        correct = []
        for seed in range(20):
            generator = torch.Generator().manual_seed(100 + seed)
            classes = [images_of_a_class(generator, 11) for _ in range(4)]
            support = Support(torch.stack([images[0] for images in classes]), torch.arange(4), 4)
            adapted = adapt_one(own, {}, support, BACKBONE_RECIPE, 0)
            queries = torch.cat([images[1:] for images in classes])
            folded = fold_calibrated(adapted.kept(), adapted.statistics)
            predicted = predict_images(own, folded, queries).probabilities.argmax(-1)
            correct.append((predicted == torch.arange(4).repeat_interleave(10)).float().mean())
        accuracies.append(float(torch.stack(correct).mean()))
    assert accuracies[1] > accuracies[0] + 0.01


def test_learning_repeats_bit_for_bit_and_leaves_the_net_as_it_was() -> None:
    own = net()
    first = learn_covariance_prior(own, [dataset(1)], TRAINING)
    assert own.prior is None
    again = learn_covariance_prior(own, [dataset(1)], TRAINING)
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in first.tensors().items())


def test_a_dataset_of_small_classes_is_explained() -> None:
    with pytest.raises(InvalidTask, match="has 0 classes with more than 11 images"):
        learn_covariance_prior(net(), [dataset(1, count=8)], TRAINING)
