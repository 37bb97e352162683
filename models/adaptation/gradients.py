"""Gradients of an inner step: their precision, and what is kept in memory for them.

Only the passes through the net run in half precision: autocast rounds weights and images on their way into a
convolution, and everything else stays float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from models.config import InnerLoopConfig
from models.errors import InvalidConfig
from models.nets import Net, call_net
from models.weights import Weights

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}

INITIAL_LOSS_SCALE = 2.0**16
_BACKOFF = 2.0**-3
"""Factor for the loss scale when a gradient overflows."""


def require_precision(recipe: InnerLoopConfig, device: torch.device, *, second_order: bool = False) -> None:
    """Raise InvalidConfig for a precision that the device, or a second-order derivative, does not support."""
    if recipe.precision == "float16" and device.type != "cuda":
        raise InvalidConfig(
            f"precision is float16 and the device {device.type}, which has no float16 arithmetic; allowed there: "
            "float32, bfloat16"
        )
    if recipe.precision != "float32" and second_order:
        raise InvalidConfig(
            f"second-order MAML came with precision {recipe.precision}; second derivatives are taken in float32 alone: "
            "use float32, or fomaml"
        )


class GradientComputation:
    """Forward passes and gradients of one inner loop.

    Args:
        recipe: its precision, and whether stages are recomputed in the backward pass.
        tasks: number of tasks that run together.
        device: of the tensors.
        second_order: whether the gradients will be differentiated.

    Raises:
        InvalidConfig: see `require_precision`.
    """

    def __init__(
        self, recipe: InnerLoopConfig, tasks: int, device: torch.device, *, second_order: bool = False
    ) -> None:
        require_precision(recipe, device, second_order=second_order)
        self._half = HALF.get(recipe.precision)
        self._recompute = recipe.recompute
        self._memory_format = torch.contiguous_format if second_order else torch.channels_last
        self._device = device
        self._scale = torch.full((tasks,), INITIAL_LOSS_SCALE, device=device) if recipe.precision == "float16" else None

    def features(self, net: Net, weights: Weights, images: Tensor) -> Tensor:
        """Compute features of (tasks, batch, channels, side, side), normalised by each task's batch.

        Returns:
            (tasks, batch, features); float32 after a pass in half precision.
        """
        call = partial(call_net, net, weights, images, recompute=self._recompute, memory_format=self._memory_format)
        if self._half is None:
            return call()
        with torch.autocast(self._device.type, self._half, cache_enabled=False):
            features = call()
        return features.float()

    def gradients(
        self, compute_losses: Callable[[], Tensor], leaves: Sequence[Tensor], *, create_graph: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute each task's loss, (tasks,), and its gradients with respect to `leaves`, (tasks, ...) each.

        With float16, each task's loss is multiplied by a scale of its own, so that small gradients do not vanish
        (Micikevicius et al. 2018, arXiv:1710.03740). If a task's gradients overflow, the step is computed again with a
        smaller scale, which the task keeps: no step is lost. At scale 1, gradients that are not finite are returned.

        Args:
            compute_losses: runs the forward pass.
            leaves: stacked weights.
            create_graph: whether to make the gradients part of an outer loop's graph.
        """
        if self._scale is None:
            losses = compute_losses()
            return losses.detach(), torch.autograd.grad(losses.sum(), leaves, create_graph=create_graph)
        while True:
            losses = compute_losses()
            gradients = torch.autograd.grad((losses * self._scale).sum(), leaves, create_graph=create_graph)
            overflowed = losses.isfinite() & (self._scale > 1) & ~_finite(gradients)  # (tasks,)
            if not bool(overflowed.any()):
                unscaled = tuple(gradient / _per_task(self._scale, gradient) for gradient in gradients)
                return losses.detach(), unscaled
            self._scale = torch.where(overflowed, (self._scale * _BACKOFF).clamp(min=1.0), self._scale)


def _finite(gradients: Sequence[Tensor]) -> Tensor:
    """Which tasks' gradients are all finite: bool (tasks,)."""
    return torch.stack([gradient.flatten(1).isfinite().all(1) for gradient in gradients]).all(0)


def _per_task(scale: Tensor, stacked: Tensor) -> Tensor:
    """Reshape (tasks,) so that it broadcasts against stacked tensors."""
    return scale.view(-1, *[1] * (stacked.ndim - 1))
