"""Flaws: a defect as it stands out on a surface: how deep, raised or stained, rough or smooth, and in which colour.

It refuses to know the surface's pattern and what the flaw is called.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.data.synthetic.canvas import UNITS, Canvas, Field
from models.data.synthetic.family import STEADY, Family, Look, new_look
from models.data.synthetic.fields import smooth
from models.data.synthetic.finish import Tone, new_tint

_LEAST_CONTRAST = 0.02
_BOTH_SIGNS_SHARE = 0.15
_MARK_JITTERS = (STEADY, STEADY, 0.08, 0.15, 0.35)  # each parameter of a defect draws one of these
_CLUTTER_JITTERS = (0.1, 0.3)
_SLOPE_UNITS = 2.0  # how far a raised mark throws its light and shadow


@dataclass(frozen=True)
class Flaw:
    """A defect on a surface.

    Attributes:
        look: where the mark lies.
        depth: change of brightness at the heart of the mark, with sign.
        relief: 0 is a stain, 1 a bump or hollow seen by its bright and dark flanks alone.
        roughness: 0 is even, 1 is torn up inside.
        grain_units: size of the roughness.
        spread: deviation, from image to image, of the logarithm of the depth.
        both_signs: whether the mark is dark in some images and bright in others.
        tint: colour of the mark; used for colour images alone.
    """

    look: Look[Field]
    depth: float
    relief: float = 0.0
    roughness: float = 0.0
    grain_units: float = 1.0
    spread: float = 0.1
    both_signs: bool = False
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


def new_mark(family: Family[Field], generator: np.random.Generator) -> Look[Field]:
    """Draws a defect of a family: some of its measures make the class, others are anything."""
    return new_look(family, generator, _MARK_JITTERS)


def new_flaw(look: Look[Field], surface: Tone, generator: np.random.Generator) -> Flaw:
    """Makes a defect stand out: its depth is drawn against the surface's contrast, so that it need not shout."""
    sign = generator.choice((-1, 1), p=(0.65, 0.35))
    room = 1.0 - surface.level if sign > 0 else surface.level
    depth = np.exp(generator.uniform(np.log(1.5), np.log(8.0))) * max(surface.contrast, _LEAST_CONTRAST)
    return Flaw(
        look=look,
        depth=float(sign * min(depth, 0.8 * room)),
        relief=float(generator.choice((0.0, generator.uniform(0.3, 1.0)))),
        roughness=float(generator.choice((0.0, generator.uniform(0.2, 1.0)))),
        grain_units=float(np.exp(generator.uniform(np.log(0.4), np.log(2.5)))),
        spread=float(generator.uniform(0.1, 0.4)),
        both_signs=bool(generator.uniform() < _BOTH_SIGNS_SHARE),
        tint=surface.tint if generator.uniform() < 0.5 else new_tint(generator),
    )


def clutter(families: tuple[Family[Field], ...], surface: Tone, generator: np.random.Generator) -> Flaw:
    """A faint mark that any part of a line may carry and that means nothing: dust, drops, wear."""
    look = new_look(families[int(generator.integers(len(families)))], generator, _CLUTTER_JITTERS)
    depth = generator.uniform(0.4, 1.2) * max(surface.contrast, _LEAST_CONTRAST) * generator.choice((-1, 1))
    return Flaw(look, float(depth), roughness=0.3, spread=0.5, both_signs=True, tint=surface.tint)


def draw_flaw(flaw: Flaw, canvas: Canvas, light_angle: float) -> tuple[Field, Field]:
    """Draws a flaw on every image of a canvas.

    Args:
        flaw: what is drawn.
        canvas: where.
        light_angle: radians; from where raised flanks are lit.

    Returns:
        Change of brightness (images, side, side), and how far its tint covers the surface's, 0 to 1, of the same shape.
    """
    mark = flaw.look.draw(canvas)
    cover = np.clip(np.abs(mark), 0.0, 1.0)
    if flaw.roughness > 0:
        grain = smooth(canvas, np.full_like(canvas.angle, flaw.grain_units))
        mark = mark * (1.0 + flaw.roughness * grain)
    if flaw.relief > 0:
        mark = (1.0 - flaw.relief) * mark + flaw.relief * _flanks(mark, light_angle)
    depth = flaw.depth * np.exp(canvas.draws.normal(flaw.spread))
    if flaw.both_signs:
        depth = depth * np.sign(canvas.draws.uniform(-1, 1))
    return np.asarray(depth * mark, dtype=np.float32), np.asarray(cover, dtype=np.float32)


def _flanks(height: Field, light_angle: float) -> Field:
    """Slopes towards the light are bright, slopes away from it dark; at most about 1."""
    step_units = UNITS / height.shape[-1]
    down, right = np.gradient(height, step_units, axis=(1, 2))
    slope = np.cos(light_angle) * right + np.sin(light_angle) * down
    return np.asarray(np.tanh(_SLOPE_UNITS * slope), dtype=np.float32)
