"""Tone of a surface, and the camera: light, exposure, focus and noise.

What is drawn once per product line or class belongs to the class. What is drawn per image is a nuisance that a
recogniser has to ignore.
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
    """Brightness, contrast and colour of a surface.

    Attributes:
        level: mean brightness, 0 black to 1 white.
        contrast: deviation of the surface around it.
        tint: factors for red, green and blue with mean 1; only used for colour images.
    """

    level: float
    contrast: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """Camera of a product line. Each field bounds a number drawn per image, except the light angle.

    Attributes:
        gradient: maximum slope of the light across the image, as a share of its level.
        exposure: maximum deviation of gain and gamma from 1.
        blur_units: maximum Gaussian sigma of defocus.
        noise: maximum deviation of sensor noise, full scale 1.
        light_angle: direction of the light on raised marks in radians, the same for all images.
    """

    gradient: float
    exposure: float
    blur_units: float
    noise: float
    light_angle: float


def new_tone(generator: np.random.Generator) -> Tone:
    """Draw a tone. Contrast is log-uniform, because many real surfaces vary little."""
    level, contrast = generator.uniform(0.2, 0.8), np.exp(generator.uniform(np.log(0.012), np.log(0.18)))
    return Tone(float(level), float(contrast), new_tint(generator))


def new_tint(generator: np.random.Generator) -> tuple[float, float, float]:
    """Draw a tint, from grey to strongly coloured."""
    red, green, blue = generator.normal(0.0, generator.choice((0.02, 0.1, 0.25)), 3)
    raw = np.exp([red, green, blue])
    scaled = raw / raw.mean()
    return float(scaled[0]), float(scaled[1]), float(scaled[2])


def new_camera(generator: np.random.Generator) -> Camera:
    """Draw the camera of a product line."""
    return Camera(
        gradient=float(generator.uniform(0.02, 0.35)),
        exposure=float(generator.uniform(0.03, 0.25)),
        blur_units=float(generator.uniform(0.2, 0.9)),
        noise=float(np.exp(generator.uniform(np.log(0.003), np.log(0.025)))),
        light_angle=float(generator.uniform(-math.pi, math.pi)),
    )


def photograph(canvas: Canvas, brightness: Field, tints: Field, camera: Camera, channels: int) -> Bytes:
    """Render brightness as the camera sees it.

    Args:
        canvas: provides side and random numbers.
        brightness: (images, side, side), 0 to 1 where well exposed.
        tints: broadcastable to (images, 3, side, side); unused for one channel.
        camera: bounds of the random effects.
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
    """Illumination around 1, a random slope plus a faint bowl: (images, side, side)."""
    ticks = ((np.arange(canvas.side, dtype=np.float32) + 0.5) / canvas.side - 0.5)[None]
    slope_x, slope_y = (canvas.draws.uniform(-camera.gradient, camera.gradient) for _ in range(2))
    bowl = canvas.draws.uniform(-camera.gradient, camera.gradient)
    columns, rows = ticks[:, None, :], ticks[:, :, None]
    return np.asarray(1.0 + slope_x * columns + slope_y * rows + bowl * (columns**2 + rows**2), dtype=np.float32)


def _focused(canvas: Canvas, brightness: Field, camera: Camera) -> Field:
    """Defocus each image by its own Gaussian blur with replicated borders."""
    pixels_a_unit = canvas.side / UNITS
    sigma = canvas.draws.uniform(0.1, camera.blur_units) * pixels_a_unit  # (images, 1, 1) pixels
    radius = math.ceil(2.5 * camera.blur_units * pixels_a_unit)
    weights = np.exp(-0.5 * (np.arange(radius + 1, dtype=np.float32) / sigma) ** 2)  # (images, 1, radius + 1)
    weights /= 2.0 * weights.sum(axis=2, keepdims=True) - weights[:, :, :1]
    return _blurred_down(_blurred_down(brightness, weights).swapaxes(1, 2), weights).swapaxes(1, 2)


def _blurred_down(field: Field, weights: Field) -> Field:
    """Blur along the row axis by shifted sums. Without a matrix library, every machine gives the same image."""
    radius, side = weights.shape[2] - 1, field.shape[1]
    padded = np.pad(field, ((0, 0), (radius, radius), (0, 0)), mode="edge")
    blurred = weights[:, :, :1] * field
    for step in range(1, radius + 1):
        pair = padded[:, radius - step : radius - step + side] + padded[:, radius + step : radius + step + side]
        blurred = blurred + weights[:, :, step : step + 1] * pair
    return np.asarray(blurred, dtype=np.float32)
