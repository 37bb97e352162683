"""The inner loop's update rules on stacked weights. Every task is updated by its own gradient alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.recipe import InnerLoop
from models.weights import Weights, rate_multipliers

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
        InvalidRecipe: a rate pattern that matches none of `names`.
    """

    def __init__(self, recipe: InnerLoop, names: Sequence[str], moments: Moments | None = None) -> None:
        self._recipe = recipe
        self._rates = {
            name: recipe.learning_rate * multiplier
            for name, multiplier in rate_multipliers(names, recipe.rates).items()
        }
        self.adapted_names = tuple(name for name, rate in self._rates.items() if rate > 0) or tuple(names)[-1:]
        self._second = dict(moments.second) if moments else {}
        self._steps = moments.steps if moments else 0

    def step(self, stacked: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Return the weights after one update; weights with rate 0 are passed on as they are."""
        self._steps += 1
        shrink = self._shrink(gradients)
        updated = dict(stacked)
        for name, gradient in gradients.items():
            if shrink is not None:
                gradient = gradient * shrink.view(-1, *[1] * (gradient.ndim - 1))
            direction = gradient if self._recipe.optimiser == "sgd" else self._scaled(name, gradient)
            updated[name] = torch.sub(stacked[name], direction, alpha=self._rates[name])
        return updated

    def moments(self) -> Moments | None:
        """The stacked second moments so far; None for SGD."""
        return Moments(self._second, self._steps) if self._recipe.optimiser == "adam" else None

    def _shrink(self, gradients: Weights) -> Tensor | None:
        """Each task's factor that brings its global gradient norm down to the recipe's limit: (tasks,)."""
        if self._recipe.clip_norm is None:
            return None
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()])
        return (self._recipe.clip_norm / squares.sum(0).sqrt().clamp(min=1e-12)).clamp(max=1.0)

    def _scaled(self, name: str, gradient: Tensor) -> Tensor:
        old = self._second.get(name)
        square = gradient.square()
        second = square * (1 - BETA2) if old is None else torch.lerp(square, old, BETA2)
        self._second[name] = second
        corrected = second / (1 - BETA2**self._steps)
        return gradient / (corrected.sqrt() + EPSILON)
