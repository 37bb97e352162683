"""Reptile's meta step, the outer update (Nichol, Achiam & Schulman 2018, arXiv:1803.02999).

A meta step adapts a meta-batch of tasks from the current start and moves the start towards the mean of the adapted
weights (algorithm 2; with one task, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models import weights as weight_ops
from models.adaptation.executor import FairExecutor
from models.adaptation.inner_loop import InnerLoopOptions, InnerLoopResult, run_inner_loop
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged
from models.meta.outer_loop import MetaTrainingState, carried_moments
from models.nets.base import Net
from models.task import Support
from models.weights import Weights


@dataclass(frozen=True)
class Reptile:
    """Reptile's meta step.

    Attributes:
        executor: spreads the tasks over its threads, on the CPU; see `InnerLoopOptions`.
    """

    executor: FairExecutor | None = None

    def meta_step(
        self,
        net: Net,
        state: MetaTrainingState,
        supports: Sequence[Support],
        recipe: InnerLoopConfig,
        step_size: float,
        seeds: Sequence[int],
    ) -> MetaTrainingState:
        """Adapt to every support from `state.start` and move the start towards the mean of the results.

        Raises:
            AdaptationDiverged: a task's loss is not finite; `state` is unchanged.
        """
        options = InnerLoopOptions(state.moments, executor=self.executor)
        adapted = run_inner_loop(net, weight_ops.expand(state.start, len(supports)), supports, recipe, seeds, options)
        diverged = (~adapted.losses.isfinite()).any(1).nonzero().flatten().tolist()
        if diverged:
            raise AdaptationDiverged(recipe.steps, tuple(diverged))
        return MetaTrainingState(
            start=weight_ops.interpolate(state.start, self.target(net, state.start, adapted), step_size),
            moments=carried_moments(adapted, recipe),
            meta_step=state.meta_step + 1,
            loss=float(adapted.losses.mean()) if adapted.losses.numel() else float("nan"),
        )

    def target(self, _net: Net, start: Weights, adapted: InnerLoopResult) -> dict[str, Tensor]:
        """What the start moves towards: the mean of the adapted weights."""
        return weight_ops.task_mean({name: adapted.weights[name] for name in start})
