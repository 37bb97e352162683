"""A meta-training run: tasks from a data set, checkpoints every few minutes, a learning curve, resume after a kill.

The mathematics is in `reptile.py` and `maml.py`. A run is named by its settings; a file holding another run is never
overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import weights as algebra
from models.adaptation.gradients import require_precision
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import CheckpointInvalid
from models.meta.curve import Curve
from models.meta.maml import meta_step_of
from models.meta.reptile import MetaTrainingState, inner_seeds, meta_train
from models.nets import build, heads
from models.task import Support
from models.weights import Weights

_TASK_STREAM = 1
"""Keeps the draws of tasks apart from the draws of inner batches."""


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides a training's result.

    Attributes:
        net_config: which net.
        recipe: of the inner loops in training.
        meta: of the meta loop.
        data: what the tasks are drawn from, as JSON data.
    """

    net_config: NetConfig
    recipe: InnerLoopConfig
    meta: MetaTrainingConfig
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return {
            "net": self.net_config.to_json(),
            "recipe": self.recipe.to_json(),
            "meta": self.meta.to_json(),
            "data": dict(self.data),
        }


@dataclass(frozen=True)
class WeightedSet:
    """Classes to train on, and the share of tasks that comes from them; shares are relative to each other."""

    classes: ClassDataset
    share: float = 1.0


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        meta_step: meta steps done.
        meta_steps: meta steps in all.
        loss: mean training loss of the last meta steps.
        saved: the meta step that the checkpoint file stands at.
    """

    meta_step: int
    meta_steps: int
    loss: float
    saved: int


class TrainingRun:
    """One meta-training, kept in one checkpoint file, its learning curve beside it (same name, ``.csv`` and ``.png``).

    Args:
        plan: what to train.
        serve: the inner loop that the finished checkpoint is to be used with.
        path: of the checkpoint; continued if it holds the same plan.
        device: where to compute.
        threads: that tasks are spread over on a CPU, where the algorithm can; it changes how sums round.

    Attributes:
        path: of the checkpoint.
        state: where the training stands.

    Raises:
        CheckpointInvalid: `path` holds a checkpoint of another plan.
        InvalidConfig: a rate pattern that matches none of the net's weights, a precision that the device lacks.
    """

    def __init__(
        self, plan: TrainingPlan, serve: InnerLoopConfig, path: Path, device: torch.device, threads: int = 1
    ) -> None:
        self._plan, self._serve, self._device, self._threads = plan, serve, device, threads
        self.path = path
        self._net = build(plan.net_config, plan.meta.seed)
        self._curve = Curve(path.with_suffix(".csv"))
        self.state = self._resumed() if path.is_file() else MetaTrainingState(self._fresh_start())
        self._check_recipes()
        self._curve.cut(self.state.meta_step)

    def run(
        self, sets: Sequence[WeightedSet], save_every_s: float = 180.0, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[Progress]:
        """Train on `sets` to the end of the plan, saving every `save_every_s` seconds; yields every meta step.

        What is yielded was saved before, if it was to be: a caller that stops there loses nothing that was announced.
        """
        meta, saved = self._plan.meta, self.state.meta_step
        if saved == meta.meta_steps:
            self.save()  # trained to the end before: another inner loop to be used with is taken up
        began = saved_s = clock()
        source, step = self._source(sets), meta_step_of(meta, self._threads)
        for state in meta_train(self._net, self._on_device(self.state), source, self._plan.recipe, meta, step):
            self.state = state
            now_s, last = clock(), state.meta_step == meta.meta_steps
            self._curve.add(state.meta_step, state.loss, now_s - began, last=last)
            if last or now_s - saved_s >= save_every_s:
                self.save()
                saved, saved_s = state.meta_step, clock()
            yield Progress(state.meta_step, meta.meta_steps, self._curve.loss, saved)

    def save(self) -> Checkpoint:
        """Write the checkpoint and the learning curve as they stand."""
        checkpoint = Checkpoint(
            name=self.path.stem,
            net_config=self._plan.net_config,
            recipe=self._serve,
            weights=self.state.start,
            moments=self.state.moments,
            training={**self._plan.to_json(), "meta_step": self.state.meta_step, "loss": self.state.loss},
            outer=self.state.outer if self.state.meta_step < self._plan.meta.meta_steps else None,
        )
        save_checkpoint(checkpoint, self.path)
        self._curve.save()
        return checkpoint

    def _resumed(self) -> MetaTrainingState:
        kept = load_checkpoint(self.path)
        training = dict(kept.training)
        step, loss = int(training.pop("meta_step", 0)), float(training.pop("loss", float("nan")))
        if training != self._plan.to_json():
            differing = sorted(key for key in self._plan.to_json() if training.get(key) != self._plan.to_json()[key])
            raise CheckpointInvalid(
                f"{self.path} holds another training (it differs in {', '.join(differing)}); "
                "give another --out, or the settings that it was begun with"
            )
        return MetaTrainingState(kept.weights, kept.moments, step, loss, kept.outer)

    def _fresh_start(self) -> Weights:
        start = self._net.start()
        if self._plan.recipe.head == "prototype":
            return start
        generator = torch.Generator().manual_seed(self._plan.meta.seed)
        return {**start, **heads.linear_head(self._net.feature_count, self._plan.meta.n_way, generator)}

    def _check_recipes(self) -> None:
        """Find what cannot be before the training begins, and not after it when it is served."""
        require_precision(self._plan.recipe, self._device, second_order=self._plan.meta.algorithm == "maml")
        start = list(self.state.start)
        algebra.lr_multipliers_by_name(start, self._plan.meta.rates)
        for recipe in (self._plan.recipe, self._serve):
            algebra.lr_multipliers_by_name([*start, heads.WEIGHT, heads.BIAS], recipe.rates)

    def _on_device(self, state: MetaTrainingState) -> MetaTrainingState:
        def moved(weights: Weights) -> Weights:
            return {name: tensor.to(self._device) for name, tensor in weights.items()}

        moments, outer = state.moments, state.outer
        return replace(
            state,
            start=moved(state.start),
            moments=replace(moments, second=moved(moments.second)) if moments else None,
            outer=replace(outer, first=moved(outer.first), second=moved(outer.second)) if outer else None,
        )

    def _source(self, sets: Sequence[WeightedSet]) -> Callable[[int], list[Support]]:
        meta = self._plan.meta
        sources = [self._episodes(weighted.classes) for weighted in sets]
        shares = torch.tensor([weighted.share for weighted in sets])

        def support(seed: int) -> Support:
            generator = torch.Generator().manual_seed(seed)
            chosen = int(torch.multinomial(shares, 1, generator=generator))
            return sources[chosen].support(seed).to(self._device)

        return lambda step: [support(seed) for seed in inner_seeds(meta.seed + _TASK_STREAM, step, meta.meta_batch)]

    def _episodes(self, classes: ClassDataset) -> EpisodeSampler:
        """Training tasks from one set; a set with fewer classes than n_way gives tasks of all its classes."""
        meta = self._plan.meta
        shape = EpisodeShape(min(meta.n_way, len(classes)), meta.train_shots, anchor_shots=meta.anchor_shots)
        return EpisodeSampler(classes, shape, self._plan.net_config.image, meta.within_line)
