"""The work for comparing meta-learning algorithms: one net, one stream of tasks and one inner loop for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.data.synthetic import Textures
from models.images.preprocessing import ImageConfig
from models.meta.maml import make_meta_step
from models.meta.reptile import MetaTrainingState, inner_seeds
from models.nets import Net, build, heads
from models.task import Support
from service.cli.train import CACHE

Algorithm = Literal["reptile", "fomaml", "maml"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("reptile", "fomaml", "maml")
NAMES: Final[Mapping[Algorithm, str]] = {"reptile": "Reptile", "fomaml": "FOMAML", "maml": "MAML"}

_TASKS, _STAND_IN_LINES = 1, 24
_IMAGES: Final = ImageConfig(channels=1, side=28, contrast="none")


@dataclass(frozen=True)
class StepSizes:
    """Step sizes of an algorithm.

    Attributes:
        inner: of an inner step.
        outer: of a meta step at the start of training: Reptile's epsilon, or the learning rate of the outer Adam.
    """

    inner: float
    outer: float


RATES: Final[Mapping[Algorithm, StepSizes]] = {
    "reptile": StepSizes(inner=0.3, outer=1.0),
    "fomaml": StepSizes(inner=0.3, outer=1e-2),
    "maml": StepSizes(inner=0.1, outer=5e-3),
}
"""For five inner steps and a minute of training. Chosen by single trials of 20 s on the training characters, with inner
rates from 0.03 to 0.6 and outer ones of Adam from 0.003 to 0.01; second-order MAML wanted the lower inner rate."""


@dataclass(frozen=True)
class Work:
    """Settings that all algorithms share.

    Attributes:
        width: channels of the four-block net of the papers.
        n_way: classes per task.
        shots: images per class in a training task. Reptile's inner steps draw from all of them, MAML's from one half;
            the other half are queries.
        meta_batch: tasks per meta step.
        batch_size: images per inner step; the default is all images of MAML's inner steps, as published.
        seed: seed of all randomness.
    """

    width: int = 64
    n_way: int = 5
    shots: int = 10
    meta_batch: int = 5
    batch_size: int = 25
    seed: int = 0

    @property
    def net_config(self) -> NetConfig:
        """The four-block net for 28 x 28 grey images."""
        return NetConfig("conv4", _IMAGES, width=self.width)

    def net(self) -> Net:
        """The net, its weights drawn from the seed."""
        return build(self.net_config, self.seed)

    def start(self, device: torch.device) -> MetaTrainingState:
        """Initial state of all trainings: the net's weights and a linear head."""
        net = self.net()
        head = heads.linear_head(net.feature_count, self.n_way, torch.Generator().manual_seed(self.seed))
        return MetaTrainingState({name: tensor.to(device) for name, tensor in {**net.start(), **head}.items()})


@dataclass(frozen=True)
class Entry:
    """One algorithm with its rates, at one number of inner steps."""

    algorithm: Algorithm
    inner_steps: int
    rates: StepSizes

    def recipe(self, work: Work) -> InnerLoopConfig:
        """Its inner loop: plain gradient steps on a linear head."""
        return InnerLoopConfig(
            steps=self.inner_steps,
            learning_rate=self.rates.inner,
            batch_size=work.batch_size,
            head="linear",
            statistics="batch",
        )

    def step(
        self, work: Work, net: Net, state: MetaTrainingState, supports: Sequence[Support], share: float
    ) -> MetaTrainingState:
        """One meta step on `supports`, at `share` (0 to 1) of the outer rate."""
        reptile = self.algorithm == "reptile"
        outer_rate = 1e-3 if reptile else self.rates.outer
        meta = MetaTrainingConfig(
            meta_steps=1, algorithm=self.algorithm, outer_learning_rate=outer_rate, n_way=work.n_way
        )
        size = share * self.rates.outer if reptile else share
        seeds = inner_seeds(work.seed, state.meta_step, len(supports))
        return make_meta_step(meta)(net, state, supports, self.recipe(work), size, seeds)


@dataclass(frozen=True)
class Data:
    """Training classes, test classes, and a description."""

    name: str
    train: ClassDataset
    test: ClassDataset


def open_data(data_root: Path | None) -> Data:
    """Omniglot if a data root is given, otherwise generated surfaces.

    Raises:
        DatasetUnavailable: there is no Omniglot.
    """
    if data_root is None:
        training, held_out = (
            Textures(_IMAGES.side, _IMAGES.channels, seed=seed, lines=_STAND_IN_LINES) for seed in (0, 1)
        )
        return Data("generated surfaces, which stand in for Omniglot (no --data-root)", training, held_out)
    omniglot = open_dataset("omniglot", _IMAGES, data_root, CACHE)
    return Data("Omniglot, 1200 characters in four turns; scored on the other 423", omniglot.train, omniglot.test)


class TaskStream:
    """Training tasks by the number of the meta step, the same for every algorithm."""

    def __init__(self, data: Data, work: Work, device: torch.device) -> None:
        self._work, self._device = work, device
        self._source = EpisodeSampler(data.train, EpisodeShape(work.n_way, work.shots), _IMAGES)

    def __call__(self, meta_step: int) -> list[Support]:
        """The meta-batch of meta step `meta_step`."""
        seeds = inner_seeds(self._work.seed + _TASKS, meta_step, self._work.meta_batch)
        return [self._source.support(seed).to(self._device) for seed in seeds]


def entries(inner_steps: Sequence[int], rates: Mapping[Algorithm, StepSizes]) -> list[Entry]:
    """All algorithms at each number of inner steps."""
    return [Entry(algorithm, steps, rates[algorithm]) for steps in inner_steps for algorithm in ALGORITHMS]


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name; raises ValueError."""
    if name not in ALGORITHMS:
        raise ValueError(f"no algorithm {name!r}; allowed: {', '.join(ALGORITHMS)}")
    return name
