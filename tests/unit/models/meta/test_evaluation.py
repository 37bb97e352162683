"""Episode sampling and evaluation."""

from __future__ import annotations

import math

import pytest
import torch

from models.config import BACKBONE_RECIPE, InnerLoopConfig, NetConfig
from models.data.class_dataset import ArrayDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import InvalidTask
from models.images.preprocessing import ImageConfig
from models.inference.embedding import TorchEmbedder
from models.meta.evaluation import EmbeddedEpisodes, EvaluationConfig, Normalisation, Score, evaluate
from models.nets import BackboneNet, Net
from tests.backbones import Convolutional, factory_of
from tests.unit.models.conftest import SPEC

RECIPE = InnerLoopConfig(steps=2, learning_rate=0.002, batch_size=6)


def striped_classes(count: int = 8, images: int = 9) -> ArrayDataset:
    """Return classes of noisy stripes that differ in their period."""
    generator = torch.Generator().manual_seed(0)
    arrays = []
    for index in range(count):
        stripes = 100 + 100 * torch.sin(torch.arange(16) * (0.3 + 0.35 * index))
        noisy = stripes.expand(images, 1, 16, 16) + 20 * torch.rand(images, 1, 16, 16, generator=generator)
        arrays.append(noisy.clamp(0, 255).to(torch.uint8))
    return ArrayDataset("stripes", [f"pitch {index}" for index in range(count)], arrays)


def sampler(shape: EpisodeShape, within_line: float = 0.0) -> EpisodeSampler:
    return EpisodeSampler(striped_classes(), shape, SPEC.image, within_line)


def test_the_seed_determines_the_episode() -> None:
    shape = EpisodeShape(n_way=3, n_shot=2, n_query=4)
    first, again, other = (sampler(shape).task(seed) for seed in (5, 5, 6))
    assert torch.equal(first.support.inputs, again.support.inputs)
    assert first.class_names == again.class_names
    assert not torch.equal(first.support.inputs, other.support.inputs)


def test_support_and_query_images_are_disjoint() -> None:
    task = sampler(EpisodeShape(n_way=3, n_shot=4, n_query=5)).task(1)
    support = {image.numpy().tobytes() for image in task.support.inputs}
    queries = {image.numpy().tobytes() for image in task.query_inputs}
    assert len(support) == 12
    assert len(queries) == 15
    assert not support & queries


def test_anchors_are_the_first_shots_of_each_class() -> None:
    support = sampler(EpisodeShape(n_way=3, n_shot=4, anchor_shots=2)).support(1)
    images, labels = support.anchor_inputs()
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(images[2:4], support.inputs[4:6])


class TwoLines(ArrayDataset):
    """Classes of two product lines: the first four classes are one, the others another."""

    def product_line(self, class_index: int) -> int:
        return class_index // 4


def two_lines(count: int) -> TwoLines:
    classes = striped_classes(count)
    return TwoLines("lines", classes.class_names, [classes.images(index) for index in range(count)])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_episodes_is_within_one_product_line(share: float) -> None:
    lines = two_lines(8)
    episodes = EpisodeSampler(lines, EpisodeShape(n_way=3, n_shot=1), SPEC.image, share)
    names = [episodes.task(seed, with_query=False).class_names for seed in range(200)]
    within = [len({lines.class_names.index(name) // 4 for name in chosen}) == 1 for chosen in names]
    by_chance = 2 * math.comb(4, 3) / math.comb(8, 3)
    assert sum(within) / 200 == pytest.approx(share + (1 - share) * by_chance, abs=0.09)
    assert len({frozenset(chosen) for chosen in names}) >= 8  # both lines, and every choice of three


def test_a_product_line_with_too_few_classes_has_no_episodes_of_its_own() -> None:
    lines = two_lines(6)  # four classes and two
    of_three, of_five = (EpisodeSampler(lines, EpisodeShape(n_way, 1), SPEC.image, within_line=1.0) for n_way in (3, 5))
    chosen = {name for seed in range(40) for name in of_three.task(seed, with_query=False).class_names}
    assert chosen == set(lines.class_names[:4])
    assert len(set(of_five.task(0, with_query=False).class_names)) == 5


def test_an_episode_larger_than_the_dataset_raises_invalid_task() -> None:
    with pytest.raises(InvalidTask, match="8 classes; an episode needs 9"):
        sampler(EpisodeShape(n_way=9, n_shot=1))
    with pytest.raises(InvalidTask, match="9 images; this episode needs 10"):
        sampler(EpisodeShape(n_way=3, n_shot=5, n_query=5)).task(0)


def test_the_interval_is_the_interval_of_the_mean_over_episodes() -> None:
    score = Score((0.5, 0.7, 0.9, 0.7))
    assert score.mean == pytest.approx(0.7)
    deviation = math.sqrt((0.04 + 0 + 0.04 + 0) / 3)
    assert score.half_width == pytest.approx(1.959964 * deviation / 2)


@pytest.mark.parametrize("normalisation", ["frozen", "batch", "transductive"])
def test_easy_classes_are_recognised_with_each_normalisation(conv4: Net, normalisation: Normalisation) -> None:
    episodes = sampler(EpisodeShape(n_way=3, n_shot=4, n_query=5))
    config = EvaluationConfig(episodes=6, seed=0, normalisation=normalisation, tasks_per_batch=4)
    accuracies = list(evaluate(conv4, conv4.start(), episodes, RECIPE, config))
    assert len(accuracies) == 6
    assert Score(tuple(accuracies)).mean > 0.8


def test_the_number_of_tasks_per_batch_does_not_change_the_scores(conv4: Net) -> None:
    episodes = sampler(EpisodeShape(n_way=3, n_shot=2, n_query=5))
    scores = [
        list(evaluate(conv4, conv4.start(), episodes, RECIPE, EvaluationConfig(5, tasks_per_batch=tasks)))
        for tasks in (1, 2, 5)
    ]
    assert scores[0] == scores[1] == scores[2]


def test_transductive_normalisation_gives_other_accuracies_than_frozen(conv4: Net) -> None:
    shape = EpisodeShape(n_way=3, n_shot=2, n_query=1)
    frozen = list(evaluate(conv4, conv4.start(), sampler(shape), RECIPE, EvaluationConfig(20)))
    transductive = list(
        evaluate(conv4, conv4.start(), sampler(shape), RECIPE, EvaluationConfig(20, normalisation="transductive"))
    )
    assert frozen != transductive


@pytest.mark.parametrize("flips", [False, True])
def test_a_frozen_backbone_is_evaluated_on_embedded_episodes(flips: bool) -> None:
    image = ImageConfig(3, 16)
    grey = striped_classes()
    arrays = [grey.images(index).expand(-1, 3, -1, -1) for index in range(len(grey))]
    colour = ArrayDataset("stripes", grey.class_names, arrays)
    net = BackboneNet(NetConfig("backbone", image, factory=factory_of(Convolutional), stages=("layer1.2", "layer2.2")))
    embedder = TorchEmbedder(net, torch.device("cpu"))
    source = EmbeddedEpisodes(EpisodeSampler(colour, EpisodeShape(3, 4, 5), image), embedder, flips=flips)
    task = source.task(0)
    assert task.support.views == (4 if flips else 1)
    assert task.support.inputs.shape == (12 * task.support.views, net.feature_count)
    assert task.query_inputs.shape == (15, net.feature_count)
    accuracies = list(evaluate(net, {}, source, BACKBONE_RECIPE, EvaluationConfig(4)))
    assert sum(accuracies) / len(accuracies) > 0.8
