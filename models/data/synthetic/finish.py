"""Finish and camera: tone, contrast and tint of a part, then light, exposure, focus and noise, which mean nothing.

What is drawn once for a product line or class is part of the class; what is drawn for every image is nuisance that a
recogniser has to see through. This module refuses to know surfaces and defects by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data.synthetic.canvas import UNITS, Canvas, Field

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Tone:
    """How a surface looks apart from its shape.

    Attributes:
        level: mean brightness, 0 black to 1 white.
        contrast: deviation of the surface around it.
        tint: factors for red, green and blue, mean 1; used for colour images alone.
    """

    level: float
    contrast: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """How uneven the pictures of one product line are; each field bounds a number drawn for every image.

    Attributes:
        gradient: slope of the light across the image, as a share of its level.
        exposure: departure of gain and gamma from 1.
        blur_units: Gaussian sigma of defocus at most.
        noise: deviation of sensor noise at most, full scale 1.
        light_angle: radians; from where raised marks are lit, the same for all images.
    """

    gradient: float
    exposure: float
    blur_units: float
    noise: float
    light_angle: float


def new_tone(generator: np.random.Generator) -> Tone:
    """Draws a surface's tone: many real surfaces hardly vary, so contrast is even in its logarithm."""
    level, contrast = generator.uniform(0.2, 0.8), np.exp(generator.uniform(np.log(0.012), np.log(0.18)))
    return Tone(float(level), float(contrast), new_tint(generator))


def new_tint(generator: np.random.Generator) -> tuple[float, float, float]:
    """Draws a tint, from grey to strongly coloured."""
    red, green, blue = generator.normal(0.0, generator.choice((0.02, 0.1, 0.25)), 3)
    raw = np.exp([red, green, blue])
    scaled = raw / raw.mean()
    return float(scaled[0]), float(scaled[1]), float(scaled[2])


def new_camera(generator: np.random.Generator) -> Camera:
    """Draws a product line's camera: some stand in a dark box, some beside a window."""
    return Camera(
        gradient=float(generator.uniform(0.02, 0.35)),
        exposure=float(generator.uniform(0.03, 0.25)),
        blur_units=float(generator.uniform(0.2, 0.9)),
        noise=float(np.exp(generator.uniform(np.log(0.003), np.log(0.025)))),
        light_angle=float(generator.uniform(-math.pi, math.pi)),
    )


def photograph(canvas: Canvas, brightness: Field, tints: Field, camera: Camera, channels: int) -> Bytes:
    """Takes the picture.

    Args:
        canvas: side and random numbers.
        brightness: (images, side, side), 0 to 1 where well exposed.
        tints: (images, 3, side, side), or anything that broadcasts to it; unused for one channel.
        camera: bounds of the nuisance.
        channels: 1 or 3.

    Returns:
        uint8 (images, channels, side, side).
    """
    draws = canvas.draws
    lit = _focused(canvas, brightness * _light(canvas, camera), camera)
    gain = 1.0 + draws.uniform(-camera.exposure, camera.exposure)
    gamma = 1.0 + draws.uniform(-camera.exposure, camera.exposure)
    exposed = np.clip(lit * gain, 1e-4, 1.5) ** gamma
    if channels == 1:
        pictures = exposed[:, None]  # (images, 1, side, side)
    else:
        balance = 1.0 + 0.2 * draws.uniforms(3, -camera.exposure, camera.exposure)  # (images, 3, 1)
        pictures = exposed[:, None] * tints * balance[:, :, :, None]
    grain = draws.white(canvas.side) * draws.uniform(0.2 * camera.noise, camera.noise)
    return np.asarray(np.clip(np.rint((pictures + grain[:, None]) * 255.0), 0, 255), dtype=np.uint8)


def _light(canvas: Canvas, camera: Camera) -> Field:
    """A slope in a random direction and a faint bowl: (images, side, side), about 1."""
    ticks = ((np.arange(canvas.side, dtype=np.float32) + 0.5) / canvas.side - 0.5)[None]
    slope_x, slope_y = (canvas.draws.uniform(-camera.gradient, camera.gradient) for _ in range(2))
    bowl = canvas.draws.uniform(-camera.gradient, camera.gradient)
    columns, rows = ticks[:, None, :], ticks[:, :, None]
    return np.asarray(1.0 + slope_x * columns + slope_y * rows + bowl * (columns**2 + rows**2), dtype=np.float32)


def _focused(canvas: Canvas, brightness: Field, camera: Camera) -> Field:
    """Defocus as a Gaussian blur with replicated borders, each image its own."""
    pixels_a_unit = canvas.side / UNITS
    sigma = canvas.draws.uniform(0.1, camera.blur_units) * pixels_a_unit  # (images, 1, 1) pixels
    radius = math.ceil(2.5 * camera.blur_units * pixels_a_unit)
    weights = np.exp(-0.5 * (np.arange(radius + 1, dtype=np.float32) / sigma) ** 2)  # (images, 1, radius + 1)
    weights /= 2.0 * weights.sum(axis=2, keepdims=True) - weights[:, :, :1]
    return _blurred_down(_blurred_down(brightness, weights).swapaxes(1, 2), weights).swapaxes(1, 2)


def _blurred_down(field: Field, weights: Field) -> Field:
    """Blurs along the rows' axis by shifted sums: no matrix library, so every machine makes the same image."""
    radius, side = weights.shape[2] - 1, field.shape[1]
    padded = np.pad(field, ((0, 0), (radius, radius), (0, 0)), mode="edge")
    blurred = weights[:, :, :1] * field
    for step in range(1, radius + 1):
        pair = padded[:, radius - step : radius - step + side] + padded[:, radius + step : radius + step + side]
        blurred = blurred + weights[:, :, step : step + 1] * pair
    return np.asarray(blurred, dtype=np.float32)
