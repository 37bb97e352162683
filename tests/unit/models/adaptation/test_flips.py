"""Flip augmentation: weights, statistics and prototypes are made from the images and their flips."""

from __future__ import annotations

from dataclasses import replace

import torch

from models.adaptation.adapt import adapt_one
from models.config import InnerLoopConfig
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.inference.predict import class_probabilities
from models.meta.evaluation import EvaluationConfig, evaluate
from models.nets import Net
from models.nets.normalisation import fold
from tests.unit.models.conftest import SPEC, MakeSupport
from tests.unit.models.meta.test_evaluation import striped_classes

FLIPS = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=6, flip_augment=True)
PLAIN = replace(FLIPS, flip_augment=False)


def test_each_image_appears_in_its_four_orientations_with_its_label(make_support: MakeSupport) -> None:
    support = make_support(0, 3, 2)
    flipped = support.with_flips()
    samples = len(support)
    for index in range(samples):
        image = support.inputs[index]
        quarter = flipped.inputs[index::samples]
        assert torch.equal(quarter, torch.stack([image, image.flip(2), image.flip(1), image.flip(1, 2)]))
        assert flipped.labels[index::samples].tolist() == [int(support.labels[index])] * 4


def test_flipped_anchors_are_anchors(make_support: MakeSupport) -> None:
    support = replace(make_support(0, 3, 2), anchors=torch.tensor([0, 2, 4]))
    images, labels = support.with_flips().anchor_inputs()
    assert labels.tolist() == [0, 1, 2] * 4
    assert torch.equal(images, support.with_flips().inputs[[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]])


def test_flip_augmentation_equals_adapting_to_a_support_flipped_by_hand(net: Net, make_support: MakeSupport) -> None:
    support = make_support(0, 3, 2)
    ours = adapt_one(net, net.start(), support, FLIPS, seed=4)
    by_hand = adapt_one(net, net.start(), support.with_flips(), PLAIN, seed=4)
    assert ours.support_accuracy == by_hand.support_accuracy
    for tensors, expected in ((ours.weights, by_hand.weights), (ours.statistics, by_hand.statistics)):
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_without_steps_a_class_and_its_flip_have_the_same_prototype(net: Net, make_support: MakeSupport) -> None:
    support, recipe = make_support(0, 2, 1), replace(FLIPS, steps=0)
    flipped = replace(support, inputs=support.inputs.flip(3))
    ours, theirs = (adapt_one(net, net.start(), samples, recipe, seed=0).weights for samples in (support, flipped))
    torch.testing.assert_close(ours["head.weight"], theirs["head.weight"], rtol=1e-4, atol=1e-5)


def test_evaluation_scores_what_the_service_would_predict(net: Net) -> None:
    episodes = EpisodeSampler(striped_classes(), EpisodeShape(n_way=4, n_shot=1, n_query=5), SPEC.image)
    scored = list(evaluate(net, net.start(), episodes, FLIPS, EvaluationConfig(episodes=4, seed=2, tasks_per_batch=1)))
    served = []
    for seed in range(2, 6):
        task = episodes.task(seed)
        adapted = adapt_one(net, net.start(), task.support, FLIPS, seed)
        predicted = class_probabilities(net, fold(adapted.weights, adapted.statistics), task.query_inputs).argmax(1)
        served.append(float((predicted == task.query_labels).float().mean()))
    assert scored == served
    assert scored != list(
        evaluate(net, net.start(), episodes, PLAIN, EvaluationConfig(episodes=4, seed=2, tasks_per_batch=1))
    )
