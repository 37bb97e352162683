"""Product lines: which classes belong together and what each of them looks like.

A line is one of three kinds. On a *defects* line all classes share one surface and differ in the defect; on a *grades*
line they share the family of surface and differ in its measures; on a *surfaces* line they differ in everything. This
module refuses to know pixels beyond putting the parts together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.data.textures.canvas import Draws, Field, new_canvas
from models.data.textures.defects import DEFECTS
from models.data.textures.family import Look, new_look
from models.data.textures.finish import Bytes, Camera, Tone, new_camera, new_tint, new_tone, photograph
from models.data.textures.surfaces import SURFACES

JITTER = 0.035


@dataclass(frozen=True)
class Flaw:
    """A defect and how it stands out: ``tone.contrast`` is its depth with sign."""

    look: Look[Field]
    tone: Tone


@dataclass(frozen=True)
class Pose:
    """How parts lie under the camera: the usual angle, how far it strays (radians), and how far the zoom strays."""

    angle: float
    stray: float
    zoom_stray: float


@dataclass(frozen=True)
class Part:
    """What one class looks like: layers of surface with weights, a tone, perhaps a flaw, and how it is pictured."""

    name: str
    layers: tuple[tuple[Look[Field], float], ...]
    tone: Tone
    flaw: Flaw | None
    pose: Pose
    camera: Camera


def product_line(generator: np.random.Generator, classes: int) -> tuple[Part, ...]:
    """Draws a product line.

    Args:
        generator: of this line alone.
        classes: how many classes it has.
    """
    kind = generator.choice(("defects", "grades", "surfaces"), p=(0.45, 0.2, 0.35))
    pose = _new_pose(generator)
    camera = new_camera(generator)
    base = Part("sound", _new_layers(generator), new_tone(generator), None, pose, camera)
    if kind == "defects":
        return _defects_line(base, generator, classes)
    if kind == "grades":
        return tuple(_grade(base, generator) for _ in range(classes))
    return tuple(_other_surface(base, generator) for _ in range(classes))


def picture(part: Part, draws: Draws, side: int, channels: int) -> Bytes:
    """Makes images of a class: uint8 (images, channels, side, side), one for each generator in ``draws``."""
    pose = part.pose
    angle = pose.angle + draws.uniform(-pose.stray, pose.stray)
    zoom = np.exp(draws.uniform(-pose.zoom_stray, pose.zoom_stray))
    canvas = new_canvas(draws, side, angle, zoom)
    surface = sum(weight * look.draw(canvas, JITTER) for look, weight in part.layers)
    brightness = part.tone.level + part.tone.contrast * np.asarray(surface, dtype=np.float32)
    tints = np.asarray(part.tone.tint, dtype=np.float32)[None, :, None, None]
    if part.flaw is not None:
        mark = part.flaw.look.draw(canvas, JITTER) * draws.uniform(0.8, 1.2)
        brightness = brightness + part.flaw.tone.contrast * mark
        cover = np.clip(np.abs(mark), 0, 1)[:, None]  # (images, 1, side, side)
        tints = tints * (1 - cover) + np.asarray(part.flaw.tone.tint, dtype=np.float32)[None, :, None, None] * cover
    return photograph(canvas, brightness, tints, part.camera, channels)


def _new_pose(generator: np.random.Generator) -> Pose:
    angle = generator.choice((0.0, np.pi / 2, generator.uniform(0, np.pi)))
    stray = generator.choice((0.05, 0.2, np.pi), p=(0.5, 0.3, 0.2))
    return Pose(float(angle), float(stray), float(generator.uniform(0.03, 0.2)))


def _new_layers(generator: np.random.Generator) -> tuple[tuple[Look[Field], float], ...]:
    """One to three surfaces laid over each other, the first the strongest; weights of unit power."""
    count = int(generator.choice((1, 2, 3), p=(0.45, 0.4, 0.15)))
    weights = np.array([1.0, *generator.uniform(0.2, 0.8, count - 1)])
    weights /= np.sqrt((weights**2).sum())
    looks = [new_look(SURFACES[int(generator.integers(len(SURFACES)))], generator) for _ in range(count)]
    return tuple((look, float(weight)) for look, weight in zip(looks, weights, strict=True))


def _new_flaw(look: Look[Field], surface: Tone, generator: np.random.Generator) -> Flaw:
    """A defect's depth is drawn against the surface's own contrast, so that it can be seen but need not shout."""
    depth = generator.uniform(1.0, 4.0) * max(surface.contrast, 0.03)
    room = 1.0 - surface.level if (sign := generator.choice((-1, 1), p=(0.65, 0.35))) > 0 else surface.level
    tint = surface.tint if generator.uniform() < 0.5 else new_tint(generator)
    return Flaw(look, Tone(surface.level, float(sign * min(depth, 0.85 * room)), tint))


def _defects_line(base: Part, generator: np.random.Generator, classes: int) -> tuple[Part, ...]:
    """One surface; most classes have a defect family of their own, some share one and differ in its measures."""
    order = generator.permutation(len(DEFECTS))
    parts = [base] if generator.uniform() < 0.75 else []
    looks: list[Look[Field]] = []
    while len(parts) < classes:
        if looks and generator.uniform() < 0.2:
            look = looks[int(generator.integers(len(looks)))].moved(generator, 0.4)
        else:
            look = new_look(DEFECTS[int(order[len(looks) % len(order)])], generator)
        looks.append(look)
        flaw = _new_flaw(look, base.tone, generator)
        parts.append(Part(look.family.name, base.layers, base.tone, flaw, base.pose, base.camera))
    return tuple(parts)


def _grade(base: Part, generator: np.random.Generator) -> Part:
    """The base's surface with other measures, and often another tone."""
    layers = tuple((look.moved(generator, 0.25), weight) for look, weight in base.layers)
    tone = base.tone if generator.uniform() < 0.4 else _shifted(base.tone, generator)
    return Part(layers[0][0].family.name, layers, tone, None, base.pose, base.camera)


def _other_surface(base: Part, generator: np.random.Generator) -> Part:
    """Another surface and tone, sometimes with a defect; only camera and pose are shared."""
    layers, tone = _new_layers(generator), _shifted(base.tone, generator)
    flaw = None
    if generator.uniform() < 0.35:
        look = new_look(DEFECTS[int(generator.integers(len(DEFECTS)))], generator)
        flaw = _new_flaw(look, tone, generator)
    return Part(layers[0][0].family.name, layers, tone, flaw, base.pose, base.camera)


def _shifted(tone: Tone, generator: np.random.Generator) -> Tone:
    level = float(np.clip(tone.level + generator.normal(0, 0.1), 0.15, 0.85))
    contrast = float(np.clip(tone.contrast * np.exp(generator.normal(0, 0.4)), 0.015, 0.25))
    return Tone(level, contrast, tone.tint if generator.uniform() < 0.5 else new_tint(generator))
