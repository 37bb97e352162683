"""Update rules of the inner loop on stacked weights. Each task is updated by its own gradient alone."""

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
    """State of Adam with beta1 = 0: running means of squared gradients, and the number of steps in them.

    Attributes:
        second: name -> tensor of the weight's shape (stacked inside an inner loop).
        steps: updates so far, for the bias correction.
    """

    second: Weights
    steps: int


class Optimiser:
    """Update rule of one inner loop over K tasks: clipping, then SGD or Adam with beta1 = 0 (Reptile, section 6).

    Args:
        recipe: the rule, its learning rates and its clipping.
        names: of all weights.
        moments: unstacked moments to continue from.

    Attributes:
        adapted_names: weights with a learning rate above 0; the last weight if there is none.

    Raises:
        InvalidConfig: a multiplier pattern matches none of `names`.
    """

    def __init__(self, recipe: InnerLoopConfig, names: Sequence[str], moments: Moments | None = None) -> None:
        self._recipe = recipe
        self._learning_rates = {
            name: recipe.learning_rate * multiplier
            for name, multiplier in lr_multipliers_by_name(names, recipe.lr_multipliers).items()
        }
        self.adapted_names = tuple(name for name, rate in self._learning_rates.items() if rate > 0) or tuple(names)[-1:]
        self._initial_second = dict(moments.second) if moments else {}
        self._second: dict[str, Tensor] = {}
        self._steps = moments.steps if moments else 0

    def step(self, stacked: Weights, gradients: Weights) -> None:
        """Update `stacked` in place; weights with learning rate 0 keep their bits."""
        self._steps += 1
        gradients = self._clipped(gradients)
        if self._recipe.optimiser == "adam":
            self._adam_step(stacked, gradients)
            return
        for name, gradient in gradients.items():
            stacked[name].sub_(gradient, alpha=self._learning_rates[name])

    def differentiable_step(self, stacked: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Return the weights after one update of SGD, in the graph of `stacked` and `gradients`."""
        self._steps += 1
        moved = {
            name: torch.sub(stacked[name], gradient, alpha=self._learning_rates[name])
            for name, gradient in self._clipped(gradients).items()
        }
        return {**stacked, **moved}

    def moments(self) -> Moments | None:
        """The stacked second moments so far; None for SGD."""
        return Moments(self._second, self._steps) if self._recipe.optimiser == "adam" else None

    def _clipped(self, gradients: Weights) -> Weights:
        """The gradients, with each task's global norm clipped to the recipe's limit."""
        if self._recipe.clip_norm is None:
            return gradients
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()])
        factor = (self._recipe.clip_norm / squares.sum(0).sqrt().clamp(min=1e-12)).clamp(max=1.0)  # (tasks,)
        return {name: tensor * factor.view(-1, *[1] * (tensor.ndim - 1)) for name, tensor in gradients.items()}

    def _adam_step(self, stacked: Weights, gradients: Weights) -> None:
        """One fused update per learning rate; with beta1 = 0 the first moment is the gradient itself."""
        by_learning_rate: dict[float, list[str]] = {}
        for name in gradients:
            by_learning_rate.setdefault(self._learning_rates[name], []).append(name)
            if name not in self._second:
                self._second[name] = torch.zeros_like(stacked[name])
                if name in self._initial_second:
                    self._second[name].copy_(self._initial_second[name])
        for learning_rate, names in by_learning_rate.items():
            weights = [_in_memory_order(stacked[name]) for name in names]
            first = [_in_memory_order(gradients[name]).contiguous() for name in names]
            second = [_in_memory_order(self._second[name]) for name in names]
            steps = torch.full((len(names),), self._steps - 1.0, device=weights[0].device).unbind()
            adam(
                weights,
                first,
                first,
                second,
                [],
                list(steps),
                fused=True,
                amsgrad=False,
                beta1=0.0,
                beta2=BETA2,
                lr=learning_rate,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )


def _in_memory_order(stacked: Tensor) -> Tensor:
    """A view in memory order (see `trainable_copy`); the fused update copies tensors in any other order."""
    return stacked.permute(0, 1, 3, 4, 2) if stacked.ndim == 5 else stacked
