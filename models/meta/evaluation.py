"""Few-shot evaluation: accuracy over episodes with a 95 % confidence interval.

Queries are normalised in one of three ways (Reptile, arXiv:1803.02999, section 6.1 and its published code):

- ``frozen``: by the support's statistics. A prediction depends on its image alone, as in the service.
- ``batch``: by a batch of the whole support and the query itself. The paper's non-transductive results.
- ``transductive``: by the statistics of all queries of the episode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.inner_loop import InnerLoopOptions, InnerLoopResult, collect_statistics, run_inner_loop
from models.adaptation.optimisers import Moments
from models.config import InnerLoopConfig
from models.data.episodes import EpisodeSampler
from models.inference.embedding import Embedder, embed_task
from models.meta.memory import TaskMemory
from models.nets import Net, call_net, heads
from models.task import Support, Task
from models.validation.calibration import Z_95
from models.validation.cross_validation import CrossValidator
from models.weights import Weights

Normalisation = Literal["frozen", "batch", "transductive"]


@dataclass(frozen=True)
class Score:
    """Accuracy over episodes.

    Attributes:
        accuracies: query accuracy of each episode, 0 to 1.
    """

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over episodes, 0 to 1."""
        return math.fsum(self.accuracies) / len(self.accuracies)

    @property
    def half_width(self) -> float:
        """Half-width of the 95 % interval of the mean (normal approximation); NaN for a single episode."""
        count = len(self.accuracies)
        if count < 2:
            return float("nan")
        variance = math.fsum((accuracy - self.mean) ** 2 for accuracy in self.accuracies) / (count - 1)
        return Z_95 * math.sqrt(variance / count)


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        episodes: number of episodes.
        seed: seed of the first episode; episode i uses seed + i.
        normalisation: how queries are normalised.
        tasks_per_batch: episodes adapted in one batch. Affects speed, not results.
        memory: tasks that were adapted before. An episode starts from what the nearest ones changed if cross-validation
            of its support does not get worse; where its support has no folds, from the start.
    """

    episodes: int
    seed: int = 0
    normalisation: Normalisation = "frozen"
    tasks_per_batch: int = 8
    memory: TaskMemory | None = None


class TaskSource(Protocol):
    """Draws the episodes of an evaluation."""

    def task(self, seed: int) -> Task:
        """Return the episode of a seed."""


class EmbeddedEpisodes:
    """Episodes of images, embedded by a frozen backbone.

    Args:
        source: draws the episodes.
        embedder: the backbone.
        flips: also embed the flipped images of each support.
    """

    def __init__(self, source: EpisodeSampler, embedder: Embedder, *, flips: bool) -> None:
        self._source, self._embedder, self._flips = source, embedder, flips

    def task(self, seed: int) -> Task:
        """Return the episode of a seed, whose inputs are features."""
        return embed_task(self._embedder, self._source.task(seed), flips=self._flips)


def evaluate(
    net: Net,
    start: Weights,
    source: TaskSource,
    recipe: InnerLoopConfig,
    config: EvaluationConfig,
    moments: Moments | None = None,
) -> Iterator[float]:
    """Adapt to each episode's support and yield its query accuracy, 0 to 1.

    Args:
        net: the architecture.
        start: meta-trained weights, (...) each; evaluation runs on their device. None of a frozen backbone.
        source: draws the episodes; of a net with a frozen backbone, `EmbeddedEpisodes`.
        recipe: the inner loop.
        config: settings of the evaluation.
        moments: Adam's second moments from training, for recipes that carry them.
    """
    device = next((tensor.device for tensor in start.values()), torch.device("cpu"))
    for first in range(0, config.episodes, config.tasks_per_batch):
        last = min(first + config.tasks_per_batch, config.episodes)
        seeds = [config.seed + episode for episode in range(first, last)]
        tasks = [source.task(seed).to(device) for seed in seeds]
        supports = [task.support for task in tasks]
        starts = weight_ops.expand(start, len(tasks))
        if config.memory is not None:
            validator = CrossValidator(net, start, task_memory=config.memory)
            starts = weight_ops.stack(
                [_chosen_start(validator, recipe, *each) for each in zip(supports, seeds, strict=True)]
            )
        adapted = run_inner_loop(net, starts, supports, recipe, seeds, InnerLoopOptions(moments))
        for index, task in enumerate(tasks):
            predicted = _predict_queries(net, adapted, index, task, config.normalisation)
            yield float((predicted == task.query_labels).float().mean())


def _chosen_start(validator: CrossValidator, recipe: InnerLoopConfig, support: Support, seed: int) -> Weights:
    """The start that cross-validation chooses for a support: the validator's own, or one from its memory."""
    chosen = validator.adapt(support, recipe, seed, support.sample_groups.cpu()).start
    return validator.start if chosen is None else chosen


def _predict_queries(
    net: Net, adapted: InnerLoopResult, index: int, task: Task, normalisation: Normalisation
) -> Tensor:
    """Predicted class of each query: int64 (queries,)."""
    weights, support = adapted.task_weights(index, task.support.n_way), adapted.supports[index]
    with torch.no_grad():
        if normalisation == "frozen":
            (measured,) = collect_statistics(net, weights, [support.inputs])
            features = call_net(net, weights, task.query_inputs[None], measured.statistics)
        elif normalisation == "transductive":
            features = call_net(net, weights, task.query_inputs[None])
        else:
            features = _features_with_support(net, weights, support, task.query_inputs)
        return heads.logits(weights, features).argmax(-1)[0]


def _features_with_support(net: Net, weights: Weights, support: Support, queries: Tensor) -> Tensor:
    """Features of each query, normalised by a batch of the support and that query: (1, queries, features)."""
    features = []
    for query in queries:
        batch = torch.cat([support.inputs, query[None]])
        features.append(call_net(net, weights, batch[None])[:, -1:])
    return torch.cat(features, dim=1)
