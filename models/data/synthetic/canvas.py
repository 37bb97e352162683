"""Drawing surface of procedural textures: random numbers per image, surface coordinates, and random fields.

All lengths are in units of 1/64 of the image's side, so a surface looks the same at any resolution. A batch is drawn at
once for speed, but each image uses its own generator and does not depend on the other images.

Sources: noise shaped in the Fourier plane after van Wijk 1991 (spot noise) and Galerne et al. 2011 (random phase
noise); cells after Worley 1996 (a cellular texture basis function).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

UNITS = 64.0


class Draws:
    """Random numbers for a batch of images from one generator per image.

    Args:
        generators: one per image.
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = tuple(generators)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._generators)

    def uniform(self, low: float, high: float) -> Field:
        """One uniform number per image: (images, 1, 1)."""
        return self.uniforms(1, low, high)

    def uniforms(self, count: int, low: float, high: float) -> Field:
        """Several uniform numbers per image: (images, count, 1)."""
        drawn = np.stack([generator.random(count, dtype=np.float32) for generator in self._generators])
        return np.asarray(low + (high - low) * drawn, dtype=np.float32)[:, :, None]

    def normal(self, deviation: float) -> Field:
        """One normal number with mean 0 per image: (images, 1, 1)."""
        drawn = [generator.standard_normal(1, dtype=np.float32) for generator in self._generators]
        return np.asarray(deviation * np.stack(drawn), dtype=np.float32)[:, :, None]

    def white(self, side: int) -> Field:
        """Normal white noise: (images, side, side)."""
        return np.stack([generator.standard_normal((side, side), dtype=np.float32) for generator in self._generators])

    def impulses(self, side: int, density: Field) -> Field:
        """Sparse points of random height 0 to 1, ``density`` per square unit: (images, side, side)."""
        drawn = np.stack([generator.random((side, side), dtype=np.float32) for generator in self._generators])
        share = np.clip(density * (UNITS / side) ** 2, 1e-6, 1.0)
        return np.asarray(np.maximum(1.0 - drawn / share, 0.0), dtype=np.float32)


@dataclass(frozen=True)
class Canvas:
    """A batch of images to draw on, each with its own pose of the surface.

    Attributes:
        draws: random numbers of the images.
        side: height and width in pixels.
        angle: (images, 1, 1), rotation of the surface in radians.
        zoom: (images, 1, 1), magnification of the surface.
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
        """Coordinates along and across the surface relative to a point in units from the image's centre."""
        columns, rows = _grid(self.side)
        return _turn(columns - x, rows - y, self.angle, self.zoom)

    def turned(self, angle: Field) -> Canvas:
        """A copy with the surface rotated further by ``angle`` (images, 1, 1)."""
        u, v = _turn(self.u, self.v, angle, np.ones_like(angle))
        return replace(self, angle=self.angle + angle, u=u, v=v)

    def frequencies(self) -> tuple[Field, Field]:
        """Cycles per unit along and across the surface for each bin of ``rfft2``: (images, side, side // 2 + 1)."""
        step = UNITS / self.side
        columns = np.fft.rfftfreq(self.side, step).astype(np.float32)[None, None, :]
        rows = np.fft.fftfreq(self.side, step).astype(np.float32)[None, :, None]
        along, across = _turn(columns, rows, self.angle, np.ones_like(self.angle))
        return along * self.zoom, across * self.zoom


def new_canvas(draws: Draws, side: int, angle: Field, zoom: Field) -> Canvas:
    """Create a canvas with randomly shifted surfaces.

    Args:
        draws: one generator per image.
        side: height and width in pixels.
        angle: (images, 1, 1), in radians.
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


_Words = NDArray[np.uint32]


def noise(canvas: Canvas, slope: Field, coarse: Field, fine: Field, stretch: Field) -> Field:
    """Normal noise of unit deviation whose spectrum falls as ``frequency ** -slope`` between two wavelengths.

    Args:
        canvas: canvas to draw on.
        slope: 0 is white, 1 to 2 cloudy, above that smooth.
        coarse: wavelength above which the spectrum is flat.
        fine: wavelength below which it is cut off.
        stretch: elongation along the surface's direction.
    """
    return _shaped(canvas, canvas.draws.white(canvas.side), (slope, coarse, fine, stretch))


def smooth(canvas: Canvas, length: Field) -> Field:
    """Normal noise of unit deviation with blobs of about ``length`` units."""
    return noise(canvas, np.zeros_like(length), length, length, np.ones_like(length))


def grains(canvas: Canvas, density: Field, size: Field, stretch: Field) -> Field:
    """Sparse grains of width ``size`` and a height up to 1 on zero, ``density`` per square unit."""
    along, across = canvas.frequencies()
    kernel = np.exp(-2.0 * (np.pi * size) ** 2 * ((along * stretch) ** 2 + across**2))
    peak = kernel.mean(axis=(1, 2), keepdims=True)  # approximate filtered height of one impulse
    points = canvas.draws.impulses(canvas.side, density)
    grown = np.fft.irfft2(np.fft.rfft2(points) * (kernel / peak), points.shape[1:])
    return np.asarray(grown, dtype=np.float32)


def cells(canvas: Canvas, size: Field, disorder: Field) -> tuple[Field, Field, Field]:
    """Voronoi cells around scattered points.

    Args:
        canvas: canvas to draw on.
        size: mean distance between points in units.
        disorder: 0 is a square grid, 1 fully scattered.

    Returns:
        Distances to the nearest and second nearest point in cell sizes, and a random number in [0, 1] per cell:
        (images, side, side) each.
    """
    column, row = canvas.u / size, canvas.v / size
    base_column, base_row = np.floor(column), np.floor(row)
    salt = canvas.draws.uniform(0, 2**24).astype(np.uint32)
    nearest = np.full_like(column, 9.0)
    second = np.full_like(column, 9.0)
    level = np.zeros_like(column)
    for step_column in (-1, 0, 1):
        for step_row in (-1, 0, 1):
            cell_column, cell_row = base_column + step_column, base_row + step_row
            word = _hash(cell_column, cell_row, salt)
            offset_column = 0.5 + disorder * (_fraction(word, 0) - 0.5)
            offset_row = 0.5 + disorder * (_fraction(word, 11) - 0.5)
            distance = np.hypot(cell_column + offset_column - column, cell_row + offset_row - row)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            level = np.where(closer, _fraction(word, 21), level)
            nearest = np.where(closer, distance, nearest)
    return nearest, second, level


def cell_levels(canvas: Canvas, width: Field, height: Field) -> Field:
    """A random number in [0, 1] for each cell of a rectangular grid: (images, side, side)."""
    salt = canvas.draws.uniform(0, 2**24).astype(np.uint32)
    return _fraction(_hash(np.floor(canvas.u / width), np.floor(canvas.v / height), salt), 5)


def above(field: Field, threshold: Field, softness: Field) -> Field:
    """A soft step: 0 well below the threshold, 1 well above it."""
    return np.asarray(0.5 + 0.5 * np.tanh((field - threshold) / softness), dtype=np.float32)


def _shaped(canvas: Canvas, source: Field, shape: tuple[Field, Field, Field, Field]) -> Field:
    slope, coarse, fine, stretch = shape
    along, across = canvas.frequencies()
    square = (along * stretch) ** 2 + across**2
    amplitude = np.exp(-0.5 * slope * np.log(square + 1.0 / coarse**2) - square * fine**2)
    amplitude[:, 0, 0] = 0.0
    power = (amplitude**2).mean(axis=(1, 2), keepdims=True)
    shaped = np.fft.irfft2(np.fft.rfft2(source) * (amplitude / np.sqrt(power + 1e-20)), source.shape[1:])
    return np.asarray(shaped, dtype=np.float32)


def _hash(column: Field, row: Field, salt: _Words) -> _Words:
    word = column.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    word = (word ^ row.astype(np.int32).view(np.uint32)) * np.uint32(0x85EBCA77) + salt * np.uint32(0xC2B2AE3D)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    word = (word ^ (word >> np.uint32(12))) * np.uint32(0x297A2D39)
    return np.asarray(word ^ (word >> np.uint32(15)), dtype=np.uint32)


def _fraction(word: _Words, shift: int) -> Field:
    """Eleven of a word's bits as a number in [0, 1)."""
    return np.asarray((word >> np.uint32(shift)) & np.uint32(0x7FF), dtype=np.float32) / np.float32(2048)
