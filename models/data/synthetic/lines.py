"""Product lines: which classes belong together and what each of them looks like.

A line is one of three kinds. On a *defects* line all classes share one surface and differ in the defect; on a *grades*
line they share the family of surface and differ in its measures; on a *surfaces* line they differ in everything but
camera and pose. This module refuses to know pixels beyond putting the parts together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.data.synthetic.canvas import Canvas, Draws, Field, new_canvas
from models.data.synthetic.defects import DEFECTS
from models.data.synthetic.family import STEADY, Family, Look, new_look
from models.data.synthetic.fields import noise
from models.data.synthetic.finish import Bytes, Camera, Tone, new_camera, new_tint, new_tone, photograph
from models.data.synthetic.flaws import Flaw, clutter, draw_flaw, new_flaw, new_mark
from models.data.synthetic.surfaces import QUIET, SURFACES

_KINDS = ("defects", "grades", "surfaces")
_KIND_SHARES = (0.6, 0.13, 0.27)
_PAIR_SHARE = 0.2  # defects that come with another, fainter one


@dataclass(frozen=True)
class Pose:
    """How parts lie under the camera: the usual angle, how far it strays (radians), and how far the zoom strays."""

    angle: float
    stray: float
    zoom_stray: float


@dataclass(frozen=True)
class Chance:
    """What differs from part to part of one line and means nothing.

    Attributes:
        mottle: strength of a cloud of random size over the surface, in the surface's contrasts, at most.
        contrast_spread: deviation of the logarithm of the surface's contrast.
        clutter: a faint mark that some parts carry, if any.
        clutter_share: how many do.
    """

    mottle: float
    contrast_spread: float
    clutter: Flaw | None = None
    clutter_share: float = 0.0


@dataclass(frozen=True)
class Part:
    """What one class looks like.

    Attributes:
        name: a plain word for it.
        layers: surfaces laid over each other, with weights of unit power.
        tone: brightness, contrast and tint of the surface.
        flaws: the defect, or two that come together, or none.
        chance: what differs from part to part.
        pose: how it lies.
        camera: how it is pictured.
    """

    name: str
    layers: tuple[tuple[Look[Field], float], ...]
    tone: Tone
    flaws: tuple[Flaw, ...]
    chance: Chance
    pose: Pose
    camera: Camera


def product_line(generator: np.random.Generator, classes: int) -> tuple[Part, ...]:
    """Draws a product line.

    Args:
        generator: of this line alone.
        classes: how many classes it has.
    """
    kind = generator.choice(_KINDS, p=_KIND_SHARES)
    tone = new_tone(generator)
    layers = _new_layers(generator, quiet=kind == "defects")
    pose, camera = _new_pose(generator), new_camera(generator)
    base = Part("sound", layers, tone, (), _new_chance(tone, generator), pose, camera)
    if kind == "defects":
        return _defects_line(base, generator, classes)
    if kind == "grades":
        return tuple(_grade(base, generator) for _ in range(classes))
    return tuple(_other_surface(base, generator) for _ in range(classes))


def picture(part: Part, draws: Draws, side: int, channels: int) -> Bytes:
    """Makes images of a class: uint8 (images, channels, side, side), one for each generator in ``draws``."""
    pose, chance = part.pose, part.chance
    angle = pose.angle + draws.uniform(-pose.stray, pose.stray)
    zoom = np.exp(draws.uniform(-pose.zoom_stray, pose.zoom_stray))
    canvas = new_canvas(draws, side, angle, zoom)
    surface = sum(weight * look.draw(canvas) for look, weight in part.layers)
    surface = surface * np.exp(draws.normal(chance.contrast_spread)) + _mottle(canvas, chance)
    brightness = np.asarray(part.tone.level + part.tone.contrast * surface, dtype=np.float32)
    if chance.clutter is not None:
        stray, _ = draw_flaw(chance.clutter, canvas, part.camera.light_angle)
        brightness += stray * (draws.uniform(0, 1) < chance.clutter_share)
    tints = np.asarray(part.tone.tint, dtype=np.float32)[None, :, None, None]
    for flaw in part.flaws:
        change, cover = draw_flaw(flaw, canvas, part.camera.light_angle)
        brightness += change
        tints = tints + (np.asarray(flaw.tint, dtype=np.float32)[None, :, None, None] - tints) * cover[:, None]
    return photograph(canvas, brightness, tints, part.camera, channels)


def _mottle(canvas: Canvas, chance: Chance) -> Field:
    """A cloud whose size and strength are each image's own: (images, side, side), in contrasts."""
    coarse = np.asarray(np.exp(canvas.draws.uniform(1.4, 4.1)), dtype=np.float32)  # 4 to 60 units
    fine = np.asarray(coarse / 16, dtype=np.float32)
    cloud = noise(canvas, canvas.draws.uniform(0.5, 2.5), coarse, fine, canvas.draws.uniform(1, 4))
    return np.asarray(cloud * canvas.draws.uniform(0, chance.mottle), dtype=np.float32)


def _new_pose(generator: np.random.Generator) -> Pose:
    angle = generator.choice((0.0, np.pi / 2, generator.uniform(0, np.pi)))
    stray = generator.choice((0.05, 0.2, np.pi), p=(0.5, 0.3, 0.2))
    return Pose(float(angle), float(stray), float(generator.uniform(0.03, 0.2)))


def _new_chance(tone: Tone, generator: np.random.Generator) -> Chance:
    return Chance(
        mottle=float(generator.uniform(0.0, 1.0)),
        contrast_spread=float(generator.uniform(0.05, 0.3)),
        clutter=clutter(DEFECTS, tone, generator) if generator.uniform() < 0.5 else None,
        clutter_share=float(generator.uniform(0.1, 0.6)),
    )


def _new_layers(generator: np.random.Generator, *, quiet: bool) -> tuple[tuple[Look[Field], float], ...]:
    """One to three surfaces laid over each other, the first the strongest; quiet ones come first where asked for."""
    count = int(generator.choice((1, 2, 3), p=(0.45, 0.4, 0.15)))
    weights = np.array([1.0, *generator.uniform(0.2, 0.8, count - 1)])
    weights /= np.sqrt((weights**2).sum())
    families = QUIET if quiet and generator.uniform() < 0.6 else SURFACES
    jitters = (STEADY, float(generator.choice((STEADY, 0.1, 0.2)))) if quiet else (STEADY,)
    looks = [new_look(families[int(generator.integers(len(families)))], generator, jitters) for _ in range(count)]
    return tuple((look, float(weight)) for look, weight in zip(looks, weights, strict=True))


def _defects_line(base: Part, generator: np.random.Generator, classes: int) -> tuple[Part, ...]:
    """One surface; most classes have a defect family of their own, some share one and differ in its measures."""
    order = generator.permutation(len(DEFECTS))
    parts = [base] if generator.uniform() < 0.75 else []
    looks: list[Look[Field]] = []
    while len(parts) < classes:
        if looks and generator.uniform() < 0.2:
            look = looks[int(generator.integers(len(looks)))].moved(generator, 0.4)
        else:
            look = new_mark(DEFECTS[int(order[len(looks) % len(order)])], generator)
        looks.append(look)
        parts.append(replace(base, name=look.family.name, flaws=_with_companion(look, base.tone, generator)))
    return tuple(parts)


def _grade(base: Part, generator: np.random.Generator) -> Part:
    """The base's surface with other measures, and often another tone."""
    layers = tuple((look.moved(generator, 0.25), weight) for look, weight in base.layers)
    tone = base.tone if generator.uniform() < 0.4 else _shifted(base.tone, generator)
    return replace(base, name=layers[0][0].family.name, layers=layers, tone=tone)


def _other_surface(base: Part, generator: np.random.Generator) -> Part:
    """Another surface and tone, sometimes with a defect; only camera and pose are shared."""
    layers, tone = _new_layers(generator, quiet=False), _shifted(base.tone, generator)
    flaws: tuple[Flaw, ...] = ()
    if generator.uniform() < 0.35:
        flaws = _with_companion(new_mark(_any_defect(generator), generator), tone, generator)
    return replace(base, name=layers[0][0].family.name, layers=layers, tone=tone, flaws=flaws)


def _with_companion(look: Look[Field], tone: Tone, generator: np.random.Generator) -> tuple[Flaw, ...]:
    """The defect, and sometimes a second one that always comes with it."""
    flaw = new_flaw(look, tone, generator)
    if generator.uniform() >= _PAIR_SHARE:
        return (flaw,)
    companion = new_flaw(new_mark(_any_defect(generator), generator), tone, generator)
    return (replace(companion, depth=0.6 * companion.depth), flaw)


def _any_defect(generator: np.random.Generator) -> Family[Field]:
    return DEFECTS[int(generator.integers(len(DEFECTS)))]


def _shifted(tone: Tone, generator: np.random.Generator) -> Tone:
    level = float(np.clip(tone.level + generator.normal(0, 0.1), 0.15, 0.85))
    contrast = float(np.clip(tone.contrast * np.exp(generator.normal(0, 0.4)), 0.01, 0.25))
    return Tone(level, contrast, tone.tint if generator.uniform() < 0.5 else new_tint(generator))
