"""Weights (name -> tensor) and arithmetic on them, by pure functions.

*Stacked* weights have a leading task dimension, with one slice per task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from models.errors import InvalidConfig

Weights = Mapping[str, Tensor]


def subtract(left: Weights, right: Weights) -> dict[str, Tensor]:
    """Return left - right, name by name."""
    return {name: left[name] - right[name] for name in left}


def add_scaled(base: Weights, direction: Weights, scale: float) -> dict[str, Tensor]:
    """Return base + scale * direction, name by name."""
    return {name: torch.add(base[name], direction[name], alpha=scale) for name in base}


def interpolate(old: Weights, new: Weights, fraction: float) -> dict[str, Tensor]:
    """Return old + fraction * (new - old), Reptile's meta step (arXiv:1803.02999, algorithm 1)."""
    return {name: torch.lerp(old[name], new[name], fraction) for name in old}


def interpolate_each(old: Weights, new: Weights, fractions: Mapping[str, float]) -> dict[str, Tensor]:
    """`interpolate` with one fraction per name; 0 keeps the old bits and 1 takes the new ones."""
    return {name: torch.lerp(old[name], new[name], fractions[name]) for name in old}


def mean(many: Sequence[Weights]) -> dict[str, Tensor]:
    """Average several weights, name by name."""
    return {name: torch.stack([weights[name] for weights in many]).mean(0) for name in many[0]}


def expand(weights: Weights, tasks: int) -> dict[str, Tensor]:
    """Give every task the same weights, without copying: (...) -> (tasks, ...)."""
    return {name: tensor.expand(tasks, *tensor.shape) for name, tensor in weights.items()}


def stack(many: Sequence[Weights]) -> dict[str, Tensor]:
    """Stack the weights of several tasks: (...) -> (tasks, ...). Tasks that share one tensor share its memory."""
    return {name: _stack([weights[name] for weights in many]) for name in many[0]}


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    shared = all(tensor is first for tensor in tensors)
    return first.expand(len(tensors), *first.shape) if shared else torch.stack(list(tensors))


def join(parts: Sequence[Weights]) -> dict[str, Tensor]:
    """Concatenate stacked weights of several batches of tasks, in order."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def trainable_copy(stacked: Weights) -> dict[str, Tensor]:
    """Copy stacked weights for an optimiser to write to, with the kernels' input channels last in memory.

    Convolutions of channels-last images read such kernels as they are and give gradients in the same layout.
    """
    return {name: _channels_last(own) if own.ndim == 5 else own.clone() for name, own in stacked.items()}


def _channels_last(kernels: Tensor) -> Tensor:
    """Copy (tasks, out, in, kernel, kernel) so that `in` lies last in memory."""
    return kernels.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format).permute(0, 1, 4, 2, 3)


def task_slice(stacked: Weights, task: int) -> dict[str, Tensor]:
    """Copy one task's weights out of stacked ones, in contiguous memory."""
    return {name: tensor[task].clone(memory_format=torch.contiguous_format) for name, tensor in stacked.items()}


def task_mean(stacked: Weights) -> dict[str, Tensor]:
    """Average over the task dimension: (tasks, ...) -> (...), in contiguous memory."""
    return {name: tensor.mean(0).contiguous() for name, tensor in stacked.items()}


def changed(start: Weights, adapted: Weights) -> dict[str, Tensor]:
    """Return the tensors of `adapted` that differ in any bit from `start`, or that `start` lacks."""
    return {
        name: tensor for name, tensor in adapted.items() if name not in start or not torch.equal(start[name], tensor)
    }


def digest(weights: Weights, text: str = "") -> str:
    """Compute the SHA-256 (hex) of `text` and of all names, types, shapes and bits, in name order."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def lr_multipliers_by_name(names: Sequence[str], multipliers: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return a learning-rate multiplier per name: that of the last `fnmatch` pattern that matches it, or 1.

    Raises:
        InvalidConfig: a pattern matches no name.
    """
    by_name = dict.fromkeys(names, 1.0)
    for pattern, multiplier in multipliers:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise InvalidConfig(f"multiplier pattern {pattern!r} matches no weight; the names are {', '.join(names)}")
        by_name.update(dict.fromkeys(matched, multiplier))
    return by_name
