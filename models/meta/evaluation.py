"""Episodes scored: accuracy with a 95 % interval. It adapts with the inner loop and knows no training.

Three ways to normalise a query, named as Reptile (arXiv:1803.02999, section 6.1 and the published code) has them:

- ``frozen``: by the support's statistics; a prediction depends on its image alone. What the service does.
- ``batch``: each query by a batch of the whole support and itself; the paper's non-transductive figures.
- ``transductive``: all queries of the episode by their own common statistics; they inform each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models import weights as algebra
from models.adaptation.inner_loop import InnerLoopOptions, InnerLoopResult, measure, run_inner_loop
from models.adaptation.optimisers import Moments
from models.config import InnerLoopConfig
from models.data.episodes import EpisodeSampler
from models.nets import heads
from models.nets.base import Net, grouped
from models.nets.normalisation import BatchPass, FrozenPass
from models.task import Support, Task
from models.validation.calibration import Z_95
from models.weights import Weights

Normalisation = Literal["frozen", "batch", "transductive"]


@dataclass(frozen=True)
class Score:
    """Accuracy over episodes.

    Attributes:
        accuracies: one a scored episode, each the share of its queries classified right.
    """

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy, 0 to 1."""
        return math.fsum(self.accuracies) / len(self.accuracies)

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean, normal approximation over episodes; NaN for one episode."""
        count = len(self.accuracies)
        if count < 2:
            return float("nan")
        variance = math.fsum((accuracy - self.mean) ** 2 for accuracy in self.accuracies) / (count - 1)
        return Z_95 * math.sqrt(variance / count)


def evaluate(
    net: Net,
    start: Weights,
    source: EpisodeSampler,
    recipe: InnerLoopConfig,
    plan: EvaluationPlan,
    moments: Moments | None = None,
) -> Iterator[float]:
    """Adapt to episode after episode and yield each one's query accuracy.

    Args:
        net: its architecture.
        start: meta-trained weights, (...) each; the work is done on the device that they lie on.
        source: of the episodes; episode i is drawn from seed `plan.seed + i`.
        recipe: the inner loop.
        plan: how many episodes, from which seed, normalised how.
        moments: Adam's second moments from training, for recipes that carry them.
    """
    device = next(iter(start.values())).device
    for first in range(0, plan.episodes, plan.together):
        seeds = [plan.seed + episode for episode in range(first, min(first + plan.together, plan.episodes))]
        tasks = [source.task(seed).to(device) for seed in seeds]
        starts = algebra.expand(start, len(tasks))
        descent = run_inner_loop(
            net, starts, [task.support for task in tasks], recipe, seeds, InnerLoopOptions(moments)
        )
        for index, task in enumerate(tasks):
            predicted = _classify(net, descent, index, task, plan.normalisation)
            yield float((predicted == task.query_labels).float().mean())


@dataclass(frozen=True)
class EvaluationPlan:
    """How an evaluation runs.

    Attributes:
        episodes: how many.
        seed: of the first episode; the i-th after it has seed + i.
        normalisation: of the queries.
        together: episodes adapted in one batch; changes the speed, not the result.
    """

    episodes: int
    seed: int = 0
    normalisation: Normalisation = "frozen"
    together: int = 8


def _classify(net: Net, descent: InnerLoopResult, index: int, task: Task, how: Normalisation) -> Tensor:
    """The most probable class of each query: int64 (queries,)."""
    weights, support = descent.one(index, task.support.n_way), descent.supports[index]
    with torch.no_grad():
        if how == "frozen":
            (measured,) = measure(net, weights, [support.images])
            features = net.features(FrozenPass(weights, measured.statistics), grouped(task.query_images[None]))
        elif how == "transductive":
            features = net.features(BatchPass(weights), grouped(task.query_images[None]))
        else:
            features = _beside_the_support(net, weights, support, task.query_images)
        return heads.logits(weights, features).argmax(-1)[0]


def _beside_the_support(net: Net, weights: Weights, support: Support, queries: Tensor) -> Tensor:
    """Features of each query, normalised by a batch of the support and that one query: (1, queries, features)."""
    alone = []
    for query in queries:
        batch = torch.cat([support.images, query[None]])
        alone.append(net.features(BatchPass(weights), grouped(batch[None]))[:, -1:])
    return torch.cat(alone, dim=1)
