"""The few random fields from which surfaces and defects are made: shaped noise, sparse grains, cells.

Sources: noise shaped in the Fourier plane after van Wijk 1991 (spot noise) and Galerne et al. 2011 (random phase
noise); cells after Worley 1996 (a cellular texture basis function). Lengths are in units (see ``canvas``). This module
refuses to know which surface a field becomes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.data.synthetic.canvas import Canvas, Field

_Words = NDArray[np.uint32]


def noise(canvas: Canvas, slope: Field, coarse: Field, fine: Field, stretch: Field) -> Field:
    """Normal noise of unit deviation whose spectrum falls as ``frequency ** -slope`` between two wavelengths.

    Args:
        canvas: where to draw.
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
    """Sparse bright grains on zero, about ``size`` across and 1 high at most; ``density`` of them a square unit."""
    along, across = canvas.frequencies()
    kernel = np.exp(-2.0 * (np.pi * size) ** 2 * ((along * stretch) ** 2 + across**2))
    peak = kernel.mean(axis=(1, 2), keepdims=True)  # the filtered height of one impulse, about
    points = canvas.draws.impulses(canvas.side, density)
    grown = np.fft.irfft2(np.fft.rfft2(points) * (kernel / peak), points.shape[1:])
    return np.asarray(grown, dtype=np.float32)


def cells(canvas: Canvas, size: Field, disorder: Field) -> tuple[Field, Field, Field]:
    """Voronoi cells around scattered points.

    Args:
        canvas: where to draw.
        size: mean distance of the points in units.
        disorder: 0 is a square grid, 1 fully scattered.

    Returns:
        Distance to the nearest point and to the second nearest, in cell sizes, and a random number in [0, 1] that is
        the same all over a cell: (images, side, side) each.
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
