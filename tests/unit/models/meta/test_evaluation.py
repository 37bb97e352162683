"""Episodes and their scores."""

from __future__ import annotations

import math

import pytest
import torch

from models.config import InnerLoopConfig
from models.data.class_dataset import ArrayDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import InvalidTask
from models.meta.evaluation import EvaluationPlan, Normalisation, Score, evaluate
from models.nets import Net
from tests.unit.models.conftest import SPEC

RECIPE = InnerLoopConfig(steps=2, learning_rate=0.002, batch_size=6)


def striped_classes(count: int = 8, images: int = 9) -> ArrayDataset:
    """Each class is a stripe pattern of its own pitch, with noise."""
    generator = torch.Generator().manual_seed(0)
    arrays = []
    for index in range(count):
        stripes = 100 + 100 * torch.sin(torch.arange(16) * (0.3 + 0.35 * index))
        noisy = stripes.expand(images, 1, 16, 16) + 20 * torch.rand(images, 1, 16, 16, generator=generator)
        arrays.append(noisy.clamp(0, 255).to(torch.uint8))
    return ArrayDataset("stripes", [f"pitch {index}" for index in range(count)], arrays)


def source(shape: EpisodeShape, within_line: float = 0.0) -> EpisodeSampler:
    return EpisodeSampler(striped_classes(), shape, SPEC.image, within_line)


def test_an_episode_is_a_function_of_its_seed() -> None:
    shape = EpisodeShape(n_way=3, n_shot=2, n_query=4)
    first, again, other = (source(shape).task(seed) for seed in (5, 5, 6))
    assert torch.equal(first.support.images, again.support.images)
    assert first.class_names == again.class_names
    assert not torch.equal(first.support.images, other.support.images)


def test_support_and_query_share_no_image() -> None:
    task = source(EpisodeShape(n_way=3, n_shot=4, n_query=5)).task(1)
    seen = {image.numpy().tobytes() for image in task.support.images}
    asked = {image.numpy().tobytes() for image in task.query_images}
    assert len(seen) == 12
    assert len(asked) == 15
    assert not seen & asked


def test_anchors_are_the_first_shots_of_every_class() -> None:
    support = source(EpisodeShape(n_way=3, n_shot=4, anchor_shots=2)).support(1)
    images, labels = support.anchor_images()
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(images[2:4], support.images[4:6])


def test_an_episode_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(InvalidTask, match="8 classes; an episode needs 9"):
        source(EpisodeShape(n_way=9, n_shot=1))
    with pytest.raises(InvalidTask, match="9 images; this episode needs 10"):
        source(EpisodeShape(n_way=3, n_shot=5, n_query=5)).task(0)


def test_the_interval_is_that_of_the_mean_over_episodes() -> None:
    score = Score((0.5, 0.7, 0.9, 0.7))
    assert score.mean == pytest.approx(0.7)
    deviation = math.sqrt((0.04 + 0 + 0.04 + 0) / 3)
    assert score.half_width == pytest.approx(1.959964 * deviation / 2)


@pytest.mark.parametrize("normalisation", ["frozen", "batch", "transductive"])
def test_easy_classes_are_told_apart(conv4: Net, normalisation: Normalisation) -> None:
    episodes = source(EpisodeShape(n_way=3, n_shot=4, n_query=5))
    plan = EvaluationPlan(episodes=6, seed=0, normalisation=normalisation, together=4)
    accuracies = list(evaluate(conv4, conv4.start(), episodes, RECIPE, plan))
    assert len(accuracies) == 6
    assert Score(tuple(accuracies)).mean > 0.8


def test_how_many_episodes_run_together_does_not_change_the_score(conv4: Net) -> None:
    episodes = source(EpisodeShape(n_way=3, n_shot=2, n_query=5))
    scores = [
        list(evaluate(conv4, conv4.start(), episodes, RECIPE, EvaluationPlan(5, together=together)))
        for together in (1, 2, 5)
    ]
    assert scores[0] == scores[1] == scores[2]


def test_frozen_queries_are_judged_alone_and_transductive_ones_together(conv4: Net) -> None:
    shape = EpisodeShape(n_way=3, n_shot=2, n_query=1)
    frozen = list(evaluate(conv4, conv4.start(), source(shape), RECIPE, EvaluationPlan(20)))
    together = list(
        evaluate(conv4, conv4.start(), source(shape), RECIPE, EvaluationPlan(20, normalisation="transductive"))
    )
    assert frozen != together
