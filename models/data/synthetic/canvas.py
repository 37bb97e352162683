"""Where textures are drawn: random numbers that belong to one image each, and the surface's own coordinates.

All lengths are in units of 1/64 of the image's side, so a surface looks the same at any resolution. A batch is drawn at
once for speed, yet every random number comes from the generator of its image: an image does not depend on which others
are drawn with it. This module refuses to know what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

UNITS = 64.0


class Draws:
    """Random numbers for a batch of images, one generator for each image.

    Args:
        generators: one for each image; they are used up in the order of calls.
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = tuple(generators)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._generators)

    def uniform(self, low: float, high: float) -> Field:
        """One number for each image: (images, 1, 1)."""
        return self.uniforms(1, low, high)

    def uniforms(self, count: int, low: float, high: float) -> Field:
        """Several numbers for each image: (images, count, 1)."""
        drawn = np.stack([generator.random(count, dtype=np.float32) for generator in self._generators])
        return np.asarray(low + (high - low) * drawn, dtype=np.float32)[:, :, None]

    def normal(self, deviation: float) -> Field:
        """One normal number around zero for each image: (images, 1, 1)."""
        drawn = [generator.standard_normal(1, dtype=np.float32) for generator in self._generators]
        return np.asarray(deviation * np.stack(drawn), dtype=np.float32)[:, :, None]

    def white(self, side: int) -> Field:
        """Normal white noise: (images, side, side)."""
        return np.stack([generator.standard_normal((side, side), dtype=np.float32) for generator in self._generators])

    def impulses(self, side: int, density: Field) -> Field:
        """Sparse points of random height 0 to 1, ``density`` of them for each square unit: (images, side, side)."""
        drawn = np.stack([generator.random((side, side), dtype=np.float32) for generator in self._generators])
        share = np.clip(density * (UNITS / side) ** 2, 1e-6, 1.0)
        return np.asarray(np.maximum(1.0 - drawn / share, 0.0), dtype=np.float32)


@dataclass(frozen=True)
class Canvas:
    """A batch of images to draw on, each with its own pose of the surface under the camera.

    Attributes:
        draws: the images' random numbers.
        side: pixels.
        angle: (images, 1, 1), radians by which the surface is turned.
        zoom: (images, 1, 1), enlargement of the surface.
        u: (images, side, side), coordinate along the surface's own direction, in units.
        v: (images, side, side), coordinate across it.
    """

    draws: Draws
    side: int
    angle: Field
    zoom: Field
    u: Field
    v: Field

    def around(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Coordinates along and across, measured from a point that is given in units from the image's centre."""
        columns, rows = _grid(self.side)
        return _turn(columns - x, rows - y, self.angle, self.zoom)

    def turned(self, angle: Field) -> Canvas:
        """The same canvas with the surface's direction turned further by ``angle`` (images, 1, 1)."""
        u, v = _turn(self.u, self.v, angle, np.ones_like(angle))
        return replace(self, angle=self.angle + angle, u=u, v=v)

    def frequencies(self) -> tuple[Field, Field]:
        """Cycles a unit along and across the surface for every bin of ``rfft2``: (images, side, side // 2 + 1)."""
        step = UNITS / self.side
        columns = np.fft.rfftfreq(self.side, step).astype(np.float32)[None, None, :]
        rows = np.fft.fftfreq(self.side, step).astype(np.float32)[None, :, None]
        along, across = _turn(columns, rows, self.angle, np.ones_like(self.angle))
        return along * self.zoom, across * self.zoom


def new_canvas(draws: Draws, side: int, angle: Field, zoom: Field) -> Canvas:
    """Lays surfaces under the camera, shifted by chance.

    Args:
        draws: one generator an image.
        side: pixels.
        angle: (images, 1, 1) radians.
        zoom: (images, 1, 1).
    """
    columns, rows = _grid(side)
    u, v = _turn(columns, rows, angle, zoom)
    return Canvas(draws, side, angle, zoom, u + draws.uniform(0, 512), v + draws.uniform(0, 512))


def _grid(side: int) -> tuple[Field, Field]:
    ticks = np.asarray(((np.arange(side) + 0.5) / side - 0.5) * UNITS, dtype=np.float32)
    return ticks[None, None, :], ticks[None, :, None]


def _turn(columns: Field, rows: Field, angle: Field, zoom: Field) -> tuple[Field, Field]:
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    along, across = cosine * columns + sine * rows, cosine * rows - sine * columns
    return np.asarray(along, dtype=np.float32), np.asarray(across, dtype=np.float32)
