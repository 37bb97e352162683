"""Folded weights in under a quarter of their memory: what they add to the meta-trained start, in seven bits a weight.

A version of a client is near the start, so steps over what it adds are small: about as exact as float16 weights at less
than half their size. Whoever serves expanded weights serves them always, whether they lay in a cache or were just
read, so that a prediction still depends on the image and the version alone. It refuses to know nets and caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.weights import Weights

_HIGHEST = 63
"""Steps to either side of zero; with 64 added they are the numbers 1 to 127."""

_MIDDLE = 64
_LEAST = 1e-30

_ROUGHEST = 2e-3
"""Root mean square error of a weight's steps, relative to the weight; with a larger one it is kept in float16 instead.

float16 itself has 3e-4; a version so far from the start that steps of seven bits are too long is a rare one.
"""


@dataclass(frozen=True, slots=True)
class _Rows:
    """One weight as rows (channels_out, the rest): gain * start + step * steps.

    Attributes:
        gain: float32 (channels_out,), what the start is multiplied with.
        step: float32 (channels_out,).
        packed: steps, packed seven bits each; None if all are zero.
    """

    gain: NDArray[np.float32]
    step: NDArray[np.float32]
    packed: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class CompactWeights:
    """One version's folded weights, packed; `Compactor.expanded` brings them back.

    Attributes:
        size_bytes: what they hold in memory.
    """

    rows: Mapping[str, _Rows]
    others: Mapping[str, NDArray[np.generic]]
    size_bytes: int


class Compactor:
    """Packs and expands the folded weights of one start's versions. Both are fixed functions of their argument.

    Args:
        start: the meta-trained weights, as they are before folding.
    """

    def __init__(self, start: Weights) -> None:
        self._start = {name: _rows(tensor) for name, tensor in start.items() if tensor.dim() > 1}
        self._shapes = {name: start[name].shape for name in self._start}

    def compact(self, folded: Weights) -> CompactWeights:
        """Pack folded weights: matrices near the start's to seven bits, other ones to float16; vectors stay."""
        rows: dict[str, _Rows] = {}
        others: dict[str, NDArray[np.generic]] = {}
        for name, tensor in folded.items():
            near = _packed(_rows(tensor), self._start[name]) if self._shapes.get(name) == tensor.shape else None
            if near is not None:
                rows[name] = near
            else:
                kept = tensor.half() if tensor.dim() > 1 else tensor
                others[name] = kept.detach().cpu().numpy().copy()
        size_bytes = sum(array.nbytes for array in others.values())
        size_bytes += sum(_size_bytes(one) for one in rows.values())
        return CompactWeights(rows, others, size_bytes)

    def expanded(self, compact: CompactWeights) -> dict[str, Tensor]:
        """Folded weights, float32 on the CPU."""
        weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in compact.others.items()}
        for name, one in compact.rows.items():
            start = self._start[name]
            values = start * one.gain[:, None]
            if one.packed is not None:
                steps = _unpacked(one.packed, start.size).reshape(start.shape)
                values += steps * one.step[:, None]
            weights[name] = torch.from_numpy(values).view(self._shapes[name])
        return weights


def _rows(tensor: Tensor) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = tensor.detach().cpu().float().flatten(1).numpy()
    return flat


def _packed(values: NDArray[np.float32], start: NDArray[np.float32]) -> _Rows | None:
    """The start's share by least squares, and what is left in equal steps; None if they would be too long."""
    gain = (values * start).sum(1) / np.maximum((start * start).sum(1), _LEAST)
    left = values - gain[:, None] * start
    step = np.abs(left).max(1) / _HIGHEST
    steps = np.rint(left / np.maximum(step, _LEAST)[:, None])
    if np.linalg.norm(left - steps * step[:, None]) > _ROUGHEST * np.linalg.norm(values):
        return None
    return _Rows(gain, step, _pack(steps) if steps.any() else None)


def _pack(steps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Eight numbers in seven bytes: the eighth's bits lie on top of the others."""
    numbers = np.full(-(-steps.size // 8) * 8, _MIDDLE, np.uint8)
    numbers[: steps.size] = steps.reshape(-1) + _MIDDLE
    eighths = numbers.reshape(8, -1)
    packed = eighths[:7].copy()
    for bit in range(7):
        packed[bit] |= (eighths[7] >> bit & 1) << 7
    return packed  # (7, numbers / 8)


def _unpacked(packed: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    """What `_pack` packed, as float32 (count,)."""
    eighths = np.empty((8, packed.shape[1]), np.uint8)
    np.bitwise_and(packed, 127, out=eighths[:7])
    tops = packed >> 7
    eighths[7] = 0
    for bit in range(7):
        eighths[7] |= tops[bit] << bit
    steps = eighths.reshape(-1)[:count].astype(np.float32)
    steps -= _MIDDLE
    return steps


def _size_bytes(one: _Rows) -> int:
    return one.gain.nbytes + one.step.nbytes + (0 if one.packed is None else one.packed.nbytes)
