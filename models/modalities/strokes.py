"""Pen strokes as a vector: where the pen was and where it went, and how much ink runs in which direction where."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

_POINTS = 32
"""Points along the strokes whose place, direction and pen flag are in the vector."""

_INK_POINTS = 128
"""Points along the strokes that the map of directions is made from."""

_CELLS, _DIRECTIONS = 4, 8
"""Cells of the map of directions on each axis, and directions of each cell."""

STROKES_SIZE = 5 * _POINTS + _CELLS**2 * _DIRECTIONS
"""Numbers of a vector."""


def resample(strokes: Sequence[Floats]) -> Floats:
    """Place points evenly along the strokes of a drawing, in the order in which they were drawn.

    Args:
        strokes: (points, 2) each, at least one point, x to the right and y upwards, in any unit.

    Returns:
        float32 (points, 3): x, y, and 1 for the first point of a stroke, otherwise 0. The drawing is centred, and its
        longer side runs from -1 to 1.
    """
    drawn = [stroke if len(stroke) > 1 else np.repeat(stroke, 2, axis=0) for stroke in strokes]
    start, end = (np.concatenate(ends) for ends in ([each[:-1] for each in drawn], [each[1:] for each in drawn]))
    stroke_of = np.repeat(np.arange(len(drawn)), [len(each) - 1 for each in drawn])
    lengths = np.hypot(*(end - start).T) + 1e-6  # dots too have a place in the order
    reached = np.cumsum(lengths)
    places = (np.arange(_INK_POINTS) + 0.5) / _INK_POINTS * reached[-1]
    segment = np.minimum(np.searchsorted(reached, places), len(lengths) - 1)
    share = 1 - (reached[segment] - places) / lengths[segment]
    points = start[segment] + share[:, None] * (end - start)[segment]
    lowest, highest = points.min(0), points.max(0)
    scaled = (points - (lowest + highest) / 2) / max(float((highest - lowest).max()) / 2, 1e-6)
    first = np.diff(stroke_of[segment], prepend=-1) > 0
    return np.concatenate([scaled, first[:, None]], axis=1).astype(np.float32)


def quarter_turned(resampled: Floats, quarters: int) -> Floats:
    """Turn drawings, (..., points, 3) from `resample`, counterclockwise by quarter turns."""
    x, y, first = np.moveaxis(resampled, -1, 0)
    for _ in range(quarters % 4):
        x, y = -y, x
    return np.stack([x, y, first], axis=-1)


def strokes_vectors(resampled: Floats) -> Tensor:
    """Describe drawings.

    Args:
        resampled: (drawings, points, 3), from `resample`.

    Returns:
        float32 (drawings, `STROKES_SIZE`).
    """
    points, first = resampled[..., :2], resampled[..., 2]
    steps = np.diff(points, axis=1, append=points[:, -1:] * 2 - points[:, -2:-1])
    steps = np.where(np.roll(first, -1, axis=1)[..., None] > 0, np.roll(steps, 1, axis=1), steps)  # not through the air
    directions = steps / np.maximum(np.hypot(*np.moveaxis(steps, -1, 0))[..., None], 1e-6)
    every = _INK_POINTS // _POINTS
    pen = first.reshape(len(first), _POINTS, every).max(-1)
    path = [points[:, every // 2 :: every], directions[:, every // 2 :: every], pen[..., None]]
    described = [np.concatenate(path, axis=-1).reshape(len(first), -1), _map_of_directions(points, directions)]
    return torch.from_numpy(np.concatenate(described, axis=1).astype(np.float32))


def _map_of_directions(points: Floats, directions: Floats) -> Floats:
    """Ink by place and direction, (drawings, cells * directions), of mean square 1, as histograms of gradients do."""
    centres = np.linspace(-0.75, 0.75, _CELLS, dtype=np.float32)
    width = np.float32(2 / _CELLS)
    near = np.exp(-(((points[..., None] - centres) / width) ** 2))  # (drawings, points, 2, cells)
    angles = 2 * math.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    bins = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    along = np.maximum(directions @ bins, 0) ** 2  # (drawings, points, directions)
    ink = np.einsum("npx,npy,npd->nxyd", near[:, :, 0], near[:, :, 1], along, optimize=True)
    root = np.sqrt(ink).reshape(len(points), -1)
    norm = np.sqrt(np.square(root).mean(1, keepdims=True))
    described: Floats = (root / np.maximum(norm, 1e-6)).astype(np.float32)
    return described
