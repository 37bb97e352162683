"""Adam on a start: the outer loop's optimiser of MAML and FOMAML (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).

The inner loops' update rules are in `optimiser.py`; this one knows no tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.weights import Weights

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class OuterMoments:
    """Adam's state.

    Attributes:
        first: name -> running mean of gradients, of the weight's shape.
        second: name -> running mean of squared gradients.
        steps: updates so far; the bias correction needs it.
    """

    first: Weights
    second: Weights
    steps: int


def adam_step(
    start: Weights, gradients: Weights, moments: OuterMoments | None, learning_rate: float
) -> tuple[dict[str, Tensor], OuterMoments]:
    """Move `start` once against `gradients`; returns the new start and Adam's state after it, changing nothing."""
    if moments is None:
        zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        moments = OuterMoments(zeros, zeros, 0)
    steps = moments.steps + 1
    first = {name: torch.lerp(gradients[name], moments.first[name], BETA1) for name in start}
    second = {name: torch.lerp(gradients[name].square(), moments.second[name], BETA2) for name in start}
    moved = {}
    for name, tensor in start.items():
        size = (second[name] / (1 - BETA2**steps)).sqrt() + EPSILON
        moved[name] = torch.sub(tensor, first[name] / (1 - BETA1**steps) / size, alpha=learning_rate)
    return moved, OuterMoments(first, second, steps)
