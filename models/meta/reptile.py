"""Reptile: the meta step and meta-training (Nichol, Achiam & Schulman 2018, arXiv:1803.02999).

A meta step adapts a meta-batch of tasks from the current start and moves the start towards the mean of the results
(algorithm 2; with one task it is algorithm 1). Training tasks come from a function of the meta step's number, so that a
run that was interrupted goes on with exactly the tasks that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from models import weights as algebra
from models.adaptation.inner_loop import InnerLoopResult
from models.adaptation.optimisers import Moments
from models.adaptation.parallel import Spread
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.errors import AdaptationDiverged
from models.meta.outer_adam import OuterMoments
from models.nets.base import Net
from models.task import Support
from models.weights import Weights

TaskSource = Callable[[int], Sequence[Support]]
"""Meta step number -> the meta-batch's supports."""


@dataclass(frozen=True)
class MetaTrainingState:
    """Where a meta-training stands.

    Attributes:
        start: the weights so far, (...) each.
        moments: Adam's second moments where the recipe carries them, else None.
        meta_step: meta steps done.
        loss: of the last meta step, the mean over tasks; Reptile: and over the inner steps; MAML: of the queries after
            them. NaN before the first.
        outer: the outer loop's Adam, where an algorithm has one.
    """

    start: Weights
    moments: Moments | None = None
    meta_step: int = 0
    loss: float = float("nan")
    outer: OuterMoments | None = None


MetaStep = Callable[
    [Net, MetaTrainingState, Sequence[Support], InnerLoopConfig, float, Sequence[int]], MetaTrainingState
]
"""Net, state, the tasks' supports, recipe, step size and one seed a task -> the state after one meta step."""


@dataclass(frozen=True)
class Reptile:
    """Reptile's meta step.

    Attributes:
        threads: that the tasks are spread over, on a CPU; see `Spread`.
    """

    threads: int = 1

    def meta_step(
        self,
        net: Net,
        state: MetaTrainingState,
        supports: Sequence[Support],
        recipe: InnerLoopConfig,
        step_size: float,
        seeds: Sequence[int],
    ) -> MetaTrainingState:
        """Adapt to all `supports` from `state.start` and return the state after moving towards their mean.

        Raises:
            AdaptationDiverged: a task's loss stopped being finite; the state passed in is untouched.
        """
        descent = Spread(self.threads).run_inner_loop(net, state.start, supports, recipe, seeds, state.moments)
        bad = (~descent.losses.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            raise AdaptationDiverged(recipe.steps, tuple(bad))
        target = algebra.task_mean({name: descent.weights[name] for name in state.start})
        return MetaTrainingState(
            start=algebra.interpolate(state.start, target, step_size),
            moments=carried_moments(descent, recipe),
            meta_step=state.meta_step + 1,
            loss=float(descent.losses.mean()) if descent.losses.numel() else float("nan"),
        )


meta_step: MetaStep = Reptile().meta_step


def carried_moments(descent: InnerLoopResult, recipe: InnerLoopConfig) -> Moments | None:
    """What the next meta step's inner loops go on from: the tasks' mean, or None if the recipe carries nothing."""
    if not recipe.carry_moments or descent.moments is None:
        return None
    return Moments(algebra.task_mean(descent.moments.second), descent.moments.steps)


def meta_train(
    net: Net,
    state: MetaTrainingState,
    source: TaskSource,
    recipe: InnerLoopConfig,
    meta: MetaTrainingConfig,
    step: MetaStep = meta_step,
) -> Iterator[MetaTrainingState]:
    """Run the remaining meta steps from `state`, yielding the state after each.

    Args:
        step: the meta step of an algorithm; Reptile's unless told otherwise.

    The random draws of a meta step depend on `meta.seed` and its number alone, so stopping anywhere and going on from
    a kept state gives the same weights as never having stopped.
    """
    while state.meta_step < meta.meta_steps:
        supports = source(state.meta_step)
        seeds = inner_seeds(meta.seed, state.meta_step, len(supports))
        step_size = meta.step_size_at(state.meta_step)
        state = step(net, state, supports, recipe, step_size, seeds)
        yield state


def inner_seeds(seed: int, step: int, tasks: int) -> list[int]:
    """One seed a task of a meta step."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    return [int(drawn) for drawn in torch.randint(2**62, (tasks,), generator=generator)]
