"""Classes of one surface that differ in colour only or in brightness only.

A net that sees grey images, or that removes the brightness of an image, is at chance on one or both of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from models.data.synthetic.camera import Bytes, Camera, Tone
from models.data.synthetic.canvas import Draws
from models.data.synthetic.family import new_look
from models.data.synthetic.surfaces import QUIET
from models.data.synthetic.textures import Part, Pose, Variation, render

SIDE: Final = 200
"""Height and width of the pictures in pixels."""

_LUMA: Final = np.array([0.299, 0.587, 0.114])  # Rec. 601, as grey preprocessing weights the channels
_SATURATION: Final = 0.3
_DARKEST, _BRIGHTEST = 0.3, 0.7
_CAMERA: Final = Camera(gradient=0.03, exposure=0.03, blur_units=0.3, noise=0.01, light_angle=0.0)
_GREY: Final = (1.0, 1.0, 1.0)


def colour_classes(generator: np.random.Generator, n_way: int, count: int, side: int = SIDE) -> Bytes:
    """Draw classes with evenly spaced hues and the same luma.

    Args:
        generator: decides the surface, the first hue and the pictures.
        n_way: number of classes.
        count: pictures per class.
        side: height and width in pixels.

    Returns:
        uint8 (n_way, count, 3, side, side).
    """
    tone, first = Tone(0.5, 0.05, _GREY), generator.uniform(0, 2 * np.pi)
    hues = first + 2 * np.pi * np.arange(n_way) / n_way
    return _draw(generator, [replace(tone, tint=_tint(hue)) for hue in hues], count, side)


def brightness_classes(generator: np.random.Generator, n_way: int, count: int, side: int = SIDE) -> Bytes:
    """Draw classes with evenly spaced brightness and the same colour.

    Args:
        generator: decides the surface and the pictures.
        n_way: number of classes, from 2.
        count: pictures per class.
        side: height and width in pixels.

    Returns:
        uint8 (n_way, count, 3, side, side).
    """
    levels = np.linspace(_DARKEST, _BRIGHTEST, n_way).tolist()
    return _draw(generator, [Tone(level, 0.05, _GREY) for level in levels], count, side)


def _draw(generator: np.random.Generator, tones: list[Tone], count: int, side: int) -> Bytes:
    look = new_look(QUIET[int(generator.integers(len(QUIET)))], generator)
    pose, variation = Pose(angle=0.0, angle_jitter=0.2, zoom_jitter=0.1), Variation(mottle=0.5, contrast_spread=0.1)
    part = Part("surface", ((look, 1.0),), tones[0], (), variation, pose, _CAMERA)
    return np.stack([
        render(replace(part, tone=tone), Draws(generator.spawn(count)), side, channels=3) for tone in tones
    ])  # fmt: skip


def _tint(hue: float) -> tuple[float, float, float]:
    """Factors for red, green and blue that do not change the luma."""
    raw = 1.0 + _SATURATION * np.cos(hue - 2 * np.pi * np.arange(3) / 3)
    red, green, blue = (raw / (raw @ _LUMA)).tolist()
    return red, green, blue
