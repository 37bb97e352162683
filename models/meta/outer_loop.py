"""The outer loop: meta steps, one after another, whatever the algorithm of a step.

`reptile.py`, `bayesian_reptile.py` and `maml.py` define the meta steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from models import weights as weight_ops
from models.adaptation.inner_loop import InnerLoopResult
from models.adaptation.optimisers import Moments
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.nets.base import Net
from models.task import Support
from models.weights import Weights

TaskSource = Callable[[int], Sequence[Support]]
"""Meta step number -> the supports of its meta-batch."""


@dataclass(frozen=True, slots=True)
class AdamState:
    """State of the outer Adam that MAML and FOMAML use.

    Attributes:
        first: name -> running mean of gradients, of the weight's shape.
        second: name -> running mean of squared gradients.
        steps: updates so far, for the bias correction.
    """

    first: Weights
    second: Weights
    steps: int


@dataclass(frozen=True)
class MetaTrainingState:
    """State of a meta-training between two meta steps.

    Attributes:
        start: the meta-trained weights, (...) each.
        moments: the inner loop's second Adam moments if the recipe carries them, else None.
        meta_step: number of meta steps done.
        loss: mean training loss of the last meta step over its tasks, and for Reptile also over the inner steps. For
            MAML it is the query loss after the inner steps. NaN before the first meta step.
        outer_adam: state of the outer Adam, for algorithms that use one.
    """

    start: Weights
    moments: Moments | None = None
    meta_step: int = 0
    loss: float = float("nan")
    outer_adam: AdamState | None = None

    def on(self, device: torch.device) -> MetaTrainingState:
        """Return the state with its tensors on `device`."""

        def moved(weights: Weights) -> Weights:
            return {name: tensor.to(device) for name, tensor in weights.items()}

        moments, adam = self.moments, self.outer_adam
        return replace(
            self,
            start=moved(self.start),
            moments=replace(moments, second=moved(moments.second)) if moments else None,
            outer_adam=replace(adam, first=moved(adam.first), second=moved(adam.second)) if adam else None,
        )


MetaStep = Callable[
    [Net, MetaTrainingState, Sequence[Support], InnerLoopConfig, float, Sequence[int]], MetaTrainingState
]
"""(net, state, supports, recipe, step size, one seed per task) -> state after one meta step."""


def carried_moments(adapted: InnerLoopResult, recipe: InnerLoopConfig) -> Moments | None:
    """Inner-loop Adam moments for the next meta step: the mean over tasks, or None if the recipe carries none."""
    if not recipe.carry_moments or adapted.moments is None:
        return None
    return Moments(weight_ops.task_mean(adapted.moments.second), adapted.moments.steps)


def meta_train(
    net: Net,
    state: MetaTrainingState,
    source: TaskSource,
    recipe: InnerLoopConfig,
    meta: MetaTrainingConfig,
    step: MetaStep,
) -> Iterator[MetaTrainingState]:
    """Run the remaining meta steps from `state` and yield the state after each.

    Random draws depend only on `meta.seed` and the number of the meta step, so an interrupted run that resumes from a
    saved state reaches the same weights as an uninterrupted one.

    Args:
        net: the architecture.
        state: where to start or resume.
        source: training tasks by meta step number.
        recipe: the inner loop.
        meta: number of meta steps, step sizes, seed, and learning-rate multipliers by layer.
        step: the meta step of an algorithm, such as `Reptile().meta_step`.

    Raises:
        InvalidConfig: a multiplier pattern that matches none of the start's weights.
        AdaptationDiverged: raised by the meta step.
    """
    multipliers = weight_ops.lr_multipliers_by_name(list(state.start), meta.lr_multipliers)
    while state.meta_step < meta.meta_steps:
        supports = source(state.meta_step)
        seeds = inner_seeds(meta.seed, state.meta_step, len(supports))
        moved = step(net, state, supports, recipe, meta.step_size_at(state.meta_step), seeds)
        if meta.lr_multipliers:
            moved = replace(moved, start=weight_ops.interpolate_each(state.start, moved.start, multipliers))
        state = moved
        yield state


def inner_seeds(seed: int, step: int, tasks: int) -> list[int]:
    """One seed for each task of a meta step."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    return [int(drawn) for drawn in torch.randint(2**62, (tasks,), generator=generator)]
