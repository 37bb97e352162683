"""A meta-training run: draws tasks from datasets, saves checkpoints and a learning curve, and resumes after a kill.

The meta steps are in `reptile.py`, `bayesian_reptile.py` and `maml.py`. A run never overwrites the checkpoint of a run
with other settings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models import weights as weight_ops
from models.adaptation.executor import FairExecutor
from models.adaptation.gradients import require_precision
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeModalities, EpisodeSampler, EpisodeShape
from models.errors import CheckpointInvalid, InvalidConfig
from models.meta.bayesian_reptile import BayesianReptile, bayesian_start
from models.meta.curve import LearningCurve
from models.meta.maml import Maml
from models.meta.outer_loop import MetaStep, MetaTrainingState, TaskSource, inner_seeds, meta_train
from models.meta.reptile import Reptile
from models.nets import build, heads
from models.task import Support
from models.weights import Weights

_TASK_STREAM = 1
"""Seed offset that keeps the draws of tasks independent of the draws of inner batches."""


@dataclass(frozen=True)
class TrainingRunConfig:
    """All settings that determine the result of a run.

    Attributes:
        net_config: the net.
        recipe: the inner loop during training.
        meta: the meta-training.
        data: what the tasks are drawn from, as JSON data.
    """

    net_config: NetConfig
    recipe: InnerLoopConfig
    meta: MetaTrainingConfig
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON data."""
        return {
            "net": self.net_config.to_json(),
            "recipe": self.recipe.to_json(),
            "meta": self.meta.to_json(),
            "data": dict(self.data),
        }


@dataclass(frozen=True)
class WeightedDataset:
    """A dataset to train on and its share of the training tasks, relative to the shares of the others."""

    dataset: ClassDataset
    share: float = 1.0


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a run.

    Attributes:
        meta_step: meta steps done.
        meta_steps: total meta steps.
        loss: mean training loss of the last meta steps.
        saved_meta_step: meta step of the saved checkpoint.
    """

    meta_step: int
    meta_steps: int
    loss: float
    saved_meta_step: int


class TrainingRun:
    """A meta-training run with its checkpoint file and, beside it, its learning curve (``.csv`` and ``.png``).

    Args:
        config: what to train.
        serve: the inner loop that the finished checkpoint will be used with.
        path: path of the checkpoint. If the file exists and has the same settings, the run resumes from it.
        device: device to train on.
        threads: CPU threads to spread tasks over, if the algorithm supports it. Changes the rounding of sums.
        start: weights to train on from; None draws them.

    Attributes:
        path: path of the checkpoint.
        state: current state of the training.

    Raises:
        CheckpointInvalid: `path` holds a checkpoint of a run with other settings.
        InvalidConfig: a learning-rate pattern matches none of the net's weights, or the device does not support the
            precision.
    """

    def __init__(
        self,
        config: TrainingRunConfig,
        serve: InnerLoopConfig,
        path: Path,
        device: torch.device,
        threads: int = 1,
        start: Weights | None = None,
    ) -> None:
        self._config, self._serve, self._device, self._threads = config, serve, device, threads
        self._from = start
        self.path = path
        self._net = build(config.net_config, config.meta.seed)
        self._curve = LearningCurve(path.with_suffix(".csv"))
        self.state = self._load_state() if path.is_file() else MetaTrainingState(self._initial_start())
        self._check_configs()
        self._curve.resume(self.state.meta_step)

    def run(
        self,
        datasets: Sequence[WeightedDataset],
        save_every_s: float = 180.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[TrainingProgress]:
        """Train until the last meta step, save every `save_every_s` seconds, and yield the progress of each meta step.

        A due checkpoint is saved before the progress is yielded.
        """
        meta, saved = self._config.meta, self.state.meta_step
        if saved == meta.meta_steps:
            self.save()  # the run is already complete: store the serving inner loop, which may be new
        began = saved_s = clock()
        source = task_source(datasets, self._config.net_config, meta, self._device)
        recipe = self._config.recipe
        with closing(FairExecutor(self._threads, partial(torch.set_num_threads, 1))) as executor:
            step = make_meta_step(meta, executor if self._threads > 1 else None)
            for state in meta_train(self._net, self.state.on(self._device), source, recipe, meta, step):
                self.state = state
                now_s, last = clock(), state.meta_step == meta.meta_steps
                self._curve.append(state.meta_step, state.loss, now_s - began, last=last)
                if last or now_s - saved_s >= save_every_s:
                    self.save()
                    saved, saved_s = state.meta_step, clock()
                yield TrainingProgress(state.meta_step, meta.meta_steps, self._curve.loss, saved)

    def save(self) -> Checkpoint:
        """Save the checkpoint and the learning curve."""
        checkpoint = Checkpoint(
            name=self.path.stem,
            net_config=self._config.net_config,
            recipe=self._serve,
            weights=self.state.start,
            moments=self.state.moments,
            training={**self._config.to_json(), "meta_step": self.state.meta_step, "loss": self.state.loss},
            outer_adam=self.state.outer_adam if self.state.meta_step < self._config.meta.meta_steps else None,
        )
        save_checkpoint(checkpoint, self.path)
        self._curve.save()
        return checkpoint

    def _load_state(self) -> MetaTrainingState:
        saved = load_checkpoint(self.path)
        if saved.backbone:
            raise CheckpointInvalid(
                f"{self.path} is the checkpoint of a frozen backbone, whose weights no training changes; pass another "
                "--out, or train its covariance prior with --algorithm covariance --start"
            )
        training = dict(saved.training)
        step, loss = int(training.pop("meta_step", 0)), float(training.pop("loss", float("nan")))
        if training != self._config.to_json():
            differing = sorted(key for key, value in self._config.to_json().items() if training.get(key) != value)
            raise CheckpointInvalid(
                f"{self.path} is the checkpoint of a run with other settings ({', '.join(differing)} differ); pass "
                "another --out, or the settings of that run to resume it"
            )
        return MetaTrainingState(saved.weights, saved.moments, step, loss, saved.outer_adam)

    def _initial_start(self) -> Weights:
        start = self._net.start() if self._from is None else dict(self._from)
        if self._config.recipe.head != "prototype" and heads.WEIGHT not in start:
            generator = torch.Generator().manual_seed(self._config.meta.seed)
            start |= heads.linear_head(self._net.feature_count, self._config.meta.n_way, generator)
        return bayesian_start(start) if self._config.meta.algorithm == "bayesian-reptile" else start

    def _check_configs(self) -> None:
        """Raise InvalidConfig before training for settings that would only fail during training or serving."""
        require_precision(self._config.recipe, self._device, second_order=self._config.meta.algorithm == "maml")
        start = list(self.state.start)
        weight_ops.lr_multipliers_by_name(start, self._config.meta.lr_multipliers)
        for recipe in (self._config.recipe, self._serve):
            weight_ops.lr_multipliers_by_name([*start, heads.WEIGHT, heads.BIAS], recipe.lr_multipliers)


def task_source(
    datasets: Sequence[WeightedDataset], net: NetConfig, meta: MetaTrainingConfig, device: torch.device
) -> TaskSource:
    """Return the function that draws the training tasks of a meta step.

    A dataset with fewer classes than `meta.n_way` gives tasks with all its classes.

    Raises:
        InvalidConfig: the shares of the datasets have no finite sum above 0.
    """
    samplers = [_episode_sampler(weighted.dataset, net, meta) for weighted in datasets]
    shares = torch.tensor([weighted.share for weighted in datasets])  # (datasets,)
    if not 0 < shares.sum() < torch.inf:
        given = ", ".join(f"{weighted.share:g}" for weighted in datasets)
        raise InvalidConfig(
            f"the shares of the data sets are {given}; allowed: finite numbers from 0, not all of them 0"
        )

    def support(seed: int) -> Support:
        generator = torch.Generator().manual_seed(seed)
        chosen = int(torch.multinomial(shares, 1, generator=generator))
        return samplers[chosen].support(seed).to(device)

    return lambda step: [support(seed) for seed in inner_seeds(meta.seed + _TASK_STREAM, step, meta.meta_batch)]


def _episode_sampler(dataset: ClassDataset, net: NetConfig, meta: MetaTrainingConfig) -> EpisodeSampler:
    shape = EpisodeShape(min(meta.n_way, len(dataset)), meta.train_shots, anchor_shots=meta.anchor_shots)
    modalities = EpisodeModalities(net.second_size, meta.modalities, dropout=meta.modality_dropout)
    return EpisodeSampler(dataset, shape, net.image, meta.within_line, modalities)


def make_meta_step(meta: MetaTrainingConfig, executor: FairExecutor | None = None) -> MetaStep:
    """Return the meta step of the algorithm that `meta` names.

    Args:
        meta: the algorithm and its settings.
        executor: spreads the tasks of Reptile and Bayesian Reptile over its threads. MAML's tasks share one autograd
            graph and one thread.
    """
    if meta.algorithm == "reptile":
        return Reptile(executor).meta_step
    if meta.algorithm == "bayesian-reptile":
        return BayesianReptile(executor).meta_step
    return Maml(meta.algorithm == "maml", meta.outer_learning_rate, meta.query_shots).meta_step
