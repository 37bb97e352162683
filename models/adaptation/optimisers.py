"""The inner loop's update rules on stacked weights. Every task is updated by its own gradient alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from models.config import InnerLoopConfig
from models.weights import Weights, lr_multipliers_by_name

BETA2 = 0.999
EPSILON = 1e-8


@dataclass(frozen=True)
class Moments:
    """Adam's state with beta1 = 0: running means of squared gradients, and how many steps went into them.

    Attributes:
        second: name -> tensor of the weight's shape (stacked while tasks are).
        steps: updates so far; the bias correction needs it.
    """

    second: Weights
    steps: int


class Optimiser:
    """One inner loop's update rule over K tasks: clip, then SGD or Adam with beta1 = 0 (Reptile, section 6).

    Args:
        recipe: the rule, its rates and its clipping.
        names: of the weights there are.
        moments: unstacked moments to go on from.

    Raises:
        InvalidConfig: a rate pattern that matches none of `names`.
    """

    def __init__(self, recipe: InnerLoopConfig, names: Sequence[str], moments: Moments | None = None) -> None:
        self._recipe = recipe
        self._rates = {
            name: recipe.learning_rate * multiplier
            for name, multiplier in lr_multipliers_by_name(names, recipe.rates).items()
        }
        self.adapted_names = tuple(name for name, rate in self._rates.items() if rate > 0) or tuple(names)[-1:]
        self._begun = dict(moments.second) if moments else {}
        self._second: dict[str, Tensor] = {}
        self._steps = moments.steps if moments else 0

    def step(self, stacked: Weights, gradients: Weights) -> None:
        """Update `stacked` in place; weights with rate 0 keep their bits."""
        self._steps += 1
        gradients = self._clipped(gradients)
        if self._recipe.optimiser == "adam":
            self._adam_step(stacked, gradients)
            return
        for name, gradient in gradients.items():
            stacked[name].sub_(gradient, alpha=self._rates[name])

    def differentiable_step(self, stacked: Weights, gradients: Weights) -> dict[str, Tensor]:
        """The weights after one update of SGD, in the graph of `stacked` and `gradients`; changes nothing."""
        self._steps += 1
        gradients = self._clipped(gradients)
        moved = {name: torch.sub(stacked[name], own, alpha=self._rates[name]) for name, own in gradients.items()}
        return {**stacked, **moved}

    def moments(self) -> Moments | None:
        """The stacked second moments so far; None for SGD."""
        return Moments(self._second, self._steps) if self._recipe.optimiser == "adam" else None

    def _clipped(self, gradients: Weights) -> Weights:
        """The gradients, each task's global norm brought down to the recipe's limit."""
        if self._recipe.clip_norm is None:
            return gradients
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()])
        shrink = (self._recipe.clip_norm / squares.sum(0).sqrt().clamp(min=1e-12)).clamp(max=1.0)  # (tasks,)
        return {name: own * shrink.view(-1, *[1] * (own.ndim - 1)) for name, own in gradients.items()}

    def _adam_step(self, stacked: Weights, gradients: Weights) -> None:
        """One pass over memory for the weights of each rate; with beta1 = 0 the first moment is the gradient itself."""
        by_rate: dict[float, list[str]] = {}
        for name in gradients:
            by_rate.setdefault(self._rates[name], []).append(name)
            if name not in self._second:
                begun = self._begun.get(name)
                self._second[name] = torch.zeros_like(stacked[name])
                if begun is not None:
                    self._second[name].copy_(begun)
        for rate, names in by_rate.items():
            weights = [_as_in_memory(stacked[name]) for name in names]
            own = [_as_in_memory(gradients[name]).contiguous() for name in names]
            second = [_as_in_memory(self._second[name]) for name in names]
            steps = torch.full((len(names),), self._steps - 1.0, device=weights[0].device).unbind()
            adam(
                weights,
                own,
                own,
                second,
                [],
                list(steps),
                fused=True,
                amsgrad=False,
                beta1=0.0,
                beta2=BETA2,
                lr=rate,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )


def _as_in_memory(stacked: Tensor) -> Tensor:
    """A view in the order of memory, see `working_copy`; the fused update copies what is not."""
    return stacked.permute(0, 1, 3, 4, 2) if stacked.ndim == 5 else stacked
