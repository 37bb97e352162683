"""The examination: folds beside the version, and what left-out samples tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models import weights as algebra
from models.adaptation.adapt import Company, adapt_one
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged
from models.nets import Net
from models.task import Support
from models.validation.cross_validation import CrossValidation, CrossValidator, NotCrossValidated
from models.validation.label_issues import find_label_issues
from tests.unit.models.conftest import MakeSupport, random_support

RECIPE = InnerLoopConfig(steps=3, learning_rate=0.01, batch_size=6)


def clear_support(n_way: int = 3, n_shot: int = 6) -> Support:
    """Classes that any net tells apart: stripes of different widths, in noise."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n_way).repeat_interleave(n_shot)
    stripes = torch.sin(torch.arange(16) * 2 * torch.pi / (2.5 + 3 * labels[:, None]))[:, None, None, :]
    noise = 0.1 * torch.rand(len(labels), 1, 16, 16, generator=generator)
    return Support(stripes + noise, labels, n_way)


def alone(support: Support) -> torch.Tensor:
    """Every sample is a picture of its own."""
    return torch.arange(len(support))


def examination_of(net: Net, support: Support, groups: torch.Tensor | None = None) -> CrossValidation:
    examined = CrossValidator(net, net.start()).examine(
        support, RECIPE, 0, alone(support) if groups is None else groups
    )
    assert isinstance(examined.examination, CrossValidation)
    return examined.examination


@pytest.mark.parametrize("threads", [1, 3])
def test_the_version_is_bit_for_bit_that_of_an_adaptation_alone(
    net: Net, make_support: MakeSupport, threads: int
) -> None:
    support = make_support(1)
    examined = CrossValidator(net, net.start(), Company(threads=threads)).examine(support, RECIPE, 7, alone(support))
    expected = adapt_one(net, net.start(), support, RECIPE, 7)
    assert algebra.digest(examined.adapted.weights) == algebra.digest(expected.weights)
    assert algebra.digest(examined.adapted.statistics) == algebra.digest(expected.statistics)


def test_the_same_seed_finds_the_same_whatever_the_threads(net: Net) -> None:
    support = clear_support()
    first, again = (
        CrossValidator(net, net.start(), Company(threads=threads))
        .examine(support, RECIPE, 3, alone(support))
        .examination
        for threads in (1, 2)
    )
    assert isinstance(first, CrossValidation)
    assert isinstance(again, CrossValidation)
    assert (first.estimate, first.temperature, first.held_out) == (again.estimate, again.temperature, again.held_out)


def test_classes_that_are_easy_to_tell_apart_get_a_high_estimate(net: Net) -> None:
    examination = examination_of(net, clear_support())
    assert examination.estimate.accuracy > 0.9
    assert examination.estimate.low < examination.estimate.accuracy <= examination.estimate.high
    assert examination.confusion.sum() == 18
    assert int(examination.confusion.diagonal().sum()) >= 16
    assert examination.suspects == ()


def test_labels_that_mean_nothing_get_the_estimate_of_guessing(net: Net) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(60, 1, 16, 16, generator=generator)
    support = Support(noise, torch.arange(60) % 3, 3)
    estimate = examination_of(net, support).estimate
    assert estimate.accuracy < 0.6
    assert estimate.low <= 1 / 3 <= estimate.high


def test_every_sample_is_judged_by_a_fold_that_has_not_seen_it(net: Net) -> None:
    held_out = examination_of(net, clear_support()).held_out
    assert len(held_out) == 18
    assert all(answer is not None and 0 < answer.confidence <= 1 for answer in held_out)


def test_copies_do_not_flatter(net: Net, make_support: MakeSupport) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(8, 1, 16, 16, generator=generator)  # nothing to learn: only copies can be recognised
    images, labels = noise.repeat(3, 1, 1, 1), (torch.arange(8) % 2).repeat(3)
    support = Support(images, labels, 2)
    recipe = replace(RECIPE, steps=0)
    blind = CrossValidator(net, net.start()).examine(support, recipe, 0, alone(support)).examination
    aware = CrossValidator(net, net.start()).examine(support, recipe, 0, torch.arange(8).repeat(3)).examination
    assert isinstance(blind, CrossValidation)
    assert isinstance(aware, CrossValidation)
    assert aware.estimate.accuracy < blind.estimate.accuracy
    assert aware.estimate.high - aware.estimate.low > blind.estimate.high - blind.estimate.low


def test_a_wrong_label_is_suspected_and_what_it_looks_like_is_named(net: Net) -> None:
    support = clear_support()
    labels = support.labels.clone()
    labels[2], labels[15] = 1, 0
    examination = examination_of(net, replace(support, labels=labels))
    named = {suspect.sample: suspect.looks_like for suspect in examination.suspects}
    assert named == {2: 0, 15: 2}
    assert all(suspect.confidence > 0.4 for suspect in examination.suspects)


def test_a_recipe_that_learns_from_mirrors_is_examined_on_the_samples_alone(net: Net) -> None:
    support = clear_support()
    labels = support.labels.clone()
    labels[2] = 1
    candidate = replace(support, labels=labels)
    examined = CrossValidator(net, net.start()).examine(candidate, replace(RECIPE, mirrors=True), 0, alone(support))
    assert isinstance(examined.examination, CrossValidation)
    assert int(examined.examination.confusion.sum()) == 18
    assert [suspect.sample for suspect in examined.examination.suspects] == [2]


def test_the_most_suspect_label_comes_first() -> None:
    features = torch.tensor([[0.0], [0.1], [0.2], [9.8], [0.05], [10.0], [10.1], [9.9], [5.5], [10.05]])
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 0, 1])
    found = find_label_issues(features, labels, torch.arange(10), 5.0)
    assert [suspect.sample for suspect in found][:1] == [3]


def test_two_classes_of_two_samples_can_be_examined(net: Net) -> None:
    examination = examination_of(net, clear_support(n_way=2, n_shot=2))
    assert examination.folds == 3
    assert all(answer is not None for answer in examination.held_out)
    assert examination.estimate.high - examination.estimate.low > 0.3


def test_a_single_sample_of_one_class_is_never_left_out_and_the_others_are(net: Net) -> None:
    support = clear_support()
    kept = torch.tensor([*range(13)])  # the third class keeps one
    examination = examination_of(net, Support(support.images[kept], support.labels[kept], 3))
    assert examination.held_out[12] is None
    assert sum(answer is not None for answer in examination.held_out) == 12
    assert examination.confusion[2].sum() == 0


def test_very_unequal_classes_can_be_examined(net: Net) -> None:
    support = clear_support(n_way=2, n_shot=20)
    kept = torch.tensor([*range(20), 20, 21])
    examination = examination_of(net, Support(support.images[kept], support.labels[kept], 2))
    assert examination.confusion.sum(1).tolist() == [20, 2]


@pytest.mark.parametrize("n_way", [2, 5])
def test_one_sample_a_class_gives_a_version_and_the_reason_for_no_examination(net: Net, n_way: int) -> None:
    support = random_support(1, n_way=n_way, n_shot=1)
    examined = CrossValidator(net, net.start()).examine(support, RECIPE, 0, alone(support))
    assert isinstance(examined.examination, NotCrossValidated)
    assert "one sample" in examined.examination.reason
    assert len(examined.adapted.weights) > 2


def test_identical_images_give_a_version_and_the_reason_for_no_examination(net: Net) -> None:
    support = Support(torch.full((6, 1, 16, 16), 0.5), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    examined = CrossValidator(net, net.start()).examine(support, RECIPE, 0, torch.zeros(6, dtype=torch.int64))
    assert isinstance(examined.examination, NotCrossValidated)
    assert "copies" in examined.examination.reason


def test_prototypes_alone_can_be_examined(net: Net) -> None:
    support = clear_support()
    examined = CrossValidator(net, net.start()).examine(support, replace(RECIPE, steps=0), 0, alone(support))
    assert isinstance(examined.examination, CrossValidation)
    assert examined.examination.estimate.accuracy > 0.9


def test_a_version_that_diverges_raises(conv4: Net, make_support: MakeSupport) -> None:
    support = make_support(1)
    with pytest.raises(AdaptationDiverged):
        CrossValidator(conv4, conv4.start()).examine(
            support, replace(RECIPE, learning_rate=1e30, steps=10), 0, alone(support)
        )
