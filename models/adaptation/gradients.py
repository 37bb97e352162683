"""How an inner step's gradients are taken: in which precision, and with what kept in memory.

Half precision is of the passes through the net alone: autocast rounds weights and images on their way into a
convolution, and everything outside stays float32. It refuses to know what is done with a gradient.
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

FIRST_SCALE = 2.0**16
SMALLER = 2.0**-3
"""A loss's first scale, and what it is multiplied with when a gradient overflows."""


def require_precision(recipe: InnerLoopConfig, device: torch.device, *, second_order: bool = False) -> None:
    """Raise InvalidConfig for a precision that this device, or a derivative of second order, cannot have."""
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


class Differentiation:
    """The passes and gradients of one descent.

    Args:
        recipe: its precision, and whether blocks are run again.
        tasks: how many run_inner_loop together.
        device: where.
        second_order: gradients will be differentiated in their turn.

    Raises:
        InvalidConfig: as `require_precision`.
    """

    def __init__(
        self, recipe: InnerLoopConfig, tasks: int, device: torch.device, *, second_order: bool = False
    ) -> None:
        require_precision(recipe, device, second_order=second_order)
        self._half = HALF.get(recipe.precision)
        self._recompute = recipe.recompute
        self._second_order = second_order
        self._device = device
        self._scale = torch.full((tasks,), FIRST_SCALE, device=device) if recipe.precision == "float16" else None

    def features(self, net: Net, weights: Weights, images: Tensor) -> Tensor:
        """Features of (tasks, batch, channels, side, side), normalised by each task's batch.

        Returns:
            (tasks, batch, features), float32 unless the images are float64.
        """
        layout = torch.contiguous_format if self._second_order else torch.channels_last
        call = partial(call_net, net, weights, images, recompute=self._recompute, memory_format=layout)
        if self._half is None:
            return call()
        with torch.autocast(self._device.type, self._half, cache_enabled=False):
            features = call()
        return features.float()

    def gradients(
        self, losses_of: Callable[[], Tensor], leaves: Sequence[Tensor], *, through: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Each task's loss, (tasks,), and its gradients by `leaves`, (tasks, ...) each.

        Under float16 each task's loss is multiplied by a scale of its own, so that small gradients do not vanish. A
        task whose gradients overflow is taken again with a smaller scale, which it keeps for later steps: no step is
        lost, and at scale 1 what is not finite is passed on.

        Args:
            losses_of: runs the forward pass.
            leaves: stacked weights.
            through: gradients are to be in the graph of an outer loop.
        """
        if self._scale is None:
            losses = losses_of()
            return losses.detach(), torch.autograd.grad(losses.sum(), leaves, create_graph=through)
        while True:
            losses = losses_of()
            gradients = torch.autograd.grad((losses * self._scale).sum(), leaves, create_graph=through)
            again = losses.isfinite() & (self._scale > 1) & ~_finite(gradients)  # (tasks,)
            if not bool(again.any()):
                return losses.detach(), tuple(own / _beside(self._scale, own) for own in gradients)
            self._scale = torch.where(again, (self._scale * SMALLER).clamp(min=1.0), self._scale)


def _finite(gradients: Sequence[Tensor]) -> Tensor:
    """Which tasks' gradients are all finite: bool (tasks,)."""
    return torch.stack([own.flatten(1).isfinite().all(1) for own in gradients]).all(0)


def _beside(scale: Tensor, stacked: Tensor) -> Tensor:
    """One number a task, shaped so that it goes with that task's slice."""
    return scale.view(-1, *[1] * (stacked.ndim - 1))
