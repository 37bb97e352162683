"""Features of a frozen backbone in numpy: pooled maps, and local features. This module does not import torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.weight_names import PATCH_BASIS, PATCH_SCALE, PATCH_SHIFT, PATCHES

Floats = NDArray[np.float32]

SPREAD_EPSILON: Final = 1e-8
"""Added to variances."""

SHORTEST: Final = np.float32(1e-12)
"""Length of features that are all zero; avoids a division by zero."""

PATCH_CHANNELS: Final = 32
"""Numbers per place that local features are projected to."""

PATCH_SHARES: Final = (0.02, 0.08)
"""Shares of the places over which the largest distances are averaged."""

LEAST_PATCH_DISTANCE: Final = 1e-4
"""Of squared distances, before the logarithm."""

_SORTED_PIXELS: Final = 256
"""Up to this length, sorting a row is faster than partitioning it twice."""


def pool(images: Floats, stages: Sequence[Floats], extremes: Sequence[int]) -> Floats:
    """What `BackboneNet.embed` computes from maps (batch, channels, pixels): (batch, feature_count).

    In numpy, which selects the largest and smallest pixels several times as fast as onnxruntime and torch.
    """
    pooled: list[Floats] = []
    for pixels, count in zip(stages, extremes, strict=True):
        size = pixels.shape[-1]
        if size <= _SORTED_PIXELS:
            lower = upper = np.sort(pixels)
        else:
            lower, upper = np.partition(pixels, count - 1), np.partition(pixels, size - count)
        pooled += [*_mean_and_deviation(pixels), _mean(upper[..., size - count :]), _mean(lower[..., :count])]
    pooled += _mean_and_deviation(images.reshape(*images.shape[:2], -1))
    return np.concatenate(pooled, axis=-1)


def _mean_and_deviation(pixels: Floats) -> tuple[Floats, Floats]:
    """(batch, channels, pixels) -> two (batch, channels)."""
    mean = _mean(pixels)
    centred = pixels - mean[..., None]
    return mean, np.sqrt(np.vecdot(centred, centred) / np.float32(pixels.shape[-1]) + np.float32(SPREAD_EPSILON))


def _mean(pixels: Floats) -> Floats:
    """(batch, channels, pixels) -> (batch, channels). Takes half the time of `ndarray.mean` on rows this short."""
    total: Floats = np.add.reduce(pixels, axis=-1)
    return total / np.float32(pixels.shape[-1])


def projection_signs(channels: int) -> Floats:
    """Random signs, (PATCH_CHANNELS, channels): projections keep distances approximately (Achlioptas 2003).

    Stored memories rely on the signs, so they come from a hash function and not from a generator of random numbers.
    """
    content = hashlib.shake_256(b"patch memory").digest(PATCH_CHANNELS * channels // 8)
    signs = np.unpackbits(np.frombuffer(content, np.uint8)).reshape(PATCH_CHANNELS, channels)
    return (2 * signs.astype(np.float32) - 1) * np.float32(channels**-0.5)


def compare_patches(weights: Mapping[str, Any], images: Floats) -> Floats:
    """Compute what `models.nets.patch_memory.compare` does: (images, PATCH_CHANNELS * places) -> (images, features)."""
    memory = np.asarray(weights[PATCHES], np.float32)  # (n_way, stored, channels, places)
    basis = np.asarray(weights[PATCH_BASIS], np.float32) if PATCH_BASIS in weights else None
    places = memory.shape[-1]
    counts = [1, *(max(1, round(share * places)) for share in PATCH_SHARES)]
    rows = []
    for image in images.reshape(len(images), *memory.shape[-2:]):
        differences = image - memory
        if basis is not None:
            flat = differences.reshape(-1, basis.shape[-1])
            differences = (flat - flat @ basis.T @ basis).reshape(memory.shape)
        squares = np.square(differences).mean(-2).min(1)  # (n_way, places)
        largest = -np.sort(-squares, axis=-1)
        pooled = [*(largest[:, :count].mean(-1) for count in counts), squares.mean(-1)]
        rows.append(np.log(np.maximum(np.stack(pooled, -1), np.float32(LEAST_PATCH_DISTANCE))).ravel())
    features = np.array(rows, np.float32).reshape(len(images), -1) * weights[PATCH_SCALE] + weights[PATCH_SHIFT]
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    same_length: Floats = features / np.maximum(length, SHORTEST) * np.float32(math.sqrt(features.shape[-1]))
    return same_length
