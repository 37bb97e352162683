"""Mirror images: a recipe may learn from them, and then everything made of the support is made of them too."""

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

MIRRORS = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=6, mirrors=True)
PLAIN = replace(MIRRORS, mirrors=False)


def test_each_image_is_there_in_its_four_mirrorings_with_its_label(make_support: MakeSupport) -> None:
    support = make_support(0, 3, 2)
    mirrored = support.mirrored()
    samples = len(support)
    for index in range(samples):
        image = support.images[index]
        quarter = mirrored.images[index::samples]
        assert torch.equal(quarter, torch.stack([image, image.flip(2), image.flip(1), image.flip(1, 2)]))
        assert mirrored.labels[index::samples].tolist() == [int(support.labels[index])] * 4


def test_mirror_images_of_anchors_are_anchors(make_support: MakeSupport) -> None:
    support = replace(make_support(0, 3, 2), anchors=torch.tensor([0, 2, 4]))
    images, labels = support.mirrored().anchor_images()
    assert labels.tolist() == [0, 1, 2] * 4
    assert torch.equal(images, support.mirrored().images[[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]])


def test_a_recipe_with_mirrors_adapts_as_one_without_on_a_support_mirrored_by_hand(
    net: Net, make_support: MakeSupport
) -> None:
    support = make_support(0, 3, 2)
    ours = adapt_one(net, net.start(), support, MIRRORS, seed=4)
    by_hand = adapt_one(net, net.start(), support.mirrored(), PLAIN, seed=4)
    assert ours.support_accuracy == by_hand.support_accuracy
    for own, other in ((ours.weights, by_hand.weights), (ours.statistics, by_hand.statistics)):
        assert all(torch.equal(own[name], other[name]) for name in other)


def test_without_steps_a_class_and_its_mirror_image_have_one_prototype(net: Net, make_support: MakeSupport) -> None:
    support, recipe = make_support(0, 2, 1), replace(MIRRORS, steps=0)
    flipped = replace(support, images=support.images.flip(3))
    ours, theirs = (adapt_one(net, net.start(), own, recipe, seed=0).weights for own in (support, flipped))
    torch.testing.assert_close(ours["head.weight"], theirs["head.weight"], rtol=1e-4, atol=1e-5)


def test_evaluation_scores_what_the_service_would_predict(net: Net) -> None:
    episodes = EpisodeSampler(striped_classes(), EpisodeShape(n_way=4, n_shot=1, n_query=5), SPEC.image)
    scored = list(
        evaluate(net, net.start(), episodes, MIRRORS, EvaluationConfig(episodes=4, seed=2, tasks_per_batch=1))
    )
    served = []
    for seed in range(2, 6):
        task = episodes.task(seed)
        adapted = adapt_one(net, net.start(), task.support, MIRRORS, seed)
        predicted = class_probabilities(net, fold(adapted.weights, adapted.statistics), task.query_images).argmax(1)
        served.append(float((predicted == task.query_labels).float().mean()))
    assert scored == served
    assert scored != list(
        evaluate(net, net.start(), episodes, PLAIN, EvaluationConfig(episodes=4, seed=2, tasks_per_batch=1))
    )
