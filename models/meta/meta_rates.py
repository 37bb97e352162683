"""Meta learning rates by layer: any meta step, with each weight's move multiplied by a factor of its own.

The factor scales Reptile's interpolation and MAML's outer Adam alike. It refuses to know how the move was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from models import weights as algebra
from models.config import InnerLoopConfig, LrMultipliers
from models.meta.reptile import MetaStep, MetaTrainingState
from models.nets.base import Net
from models.task import Support


@dataclass(frozen=True)
class ByLayer:
    """A meta step whose moves are scaled.

    Attributes:
        step: finds the moves.
        rates: multipliers by weight name, see `LrMultipliers`; a weight with 0 keeps its bits.
    """

    step: MetaStep
    rates: LrMultipliers

    def meta_step(
        self,
        net: Net,
        state: MetaTrainingState,
        supports: Sequence[Support],
        recipe: InnerLoopConfig,
        step_size: float,
        seeds: Sequence[int],
    ) -> MetaTrainingState:
        """Take the step and go each weight's share of its way.

        Raises:
            InvalidConfig: a pattern that matches none of the start's weights.
            AdaptationDiverged: as the step itself.
        """
        shares = algebra.lr_multipliers_by_name(list(state.start), self.rates)
        moved = self.step(net, state, supports, recipe, step_size, seeds)
        return replace(moved, start=algebra.interpolate_each(state.start, moved.start, shares))
