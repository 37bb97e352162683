"""Defects: families of marks, and how a mark shows on a surface.

A mark is a field from -1 to 1. Its sign and height give the deviation from the sound surface; `Defect` determines its
depth, relief, roughness and colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.data.synthetic.camera import Tone, new_tint
from models.data.synthetic.canvas import UNITS, Canvas, Field, above, cells, grains, noise, smooth
from models.data.synthetic.family import STEADY, Family, Look, Parameters, Range, new_look

_REACH = 26.0  # maximum distance of a local defect from the centre, in units
_TURN = np.float32(2 * np.pi)


def _one(parameters: Parameters) -> Field:
    return np.ones_like(next(iter(parameters.values())))


def _place(canvas: Canvas, reach: float = _REACH) -> tuple[Field, Field]:
    """Coordinates along and across the surface around a random point."""
    return canvas.around(canvas.draws.uniform(-reach, reach), canvas.draws.uniform(-reach, reach))


def _present(canvas: Canvas, share: Field, item: int) -> Field:
    """1 if an image has its ``item``-th mark, else 0; the first is always present: (images, 1, 1)."""
    drawn = canvas.draws.uniform(0, 1)
    return np.asarray((drawn < share) | (item == 0), dtype=np.float32)


def _scratches(canvas: Canvas, p: Parameters) -> Field:
    mark = np.zeros_like(canvas.u)
    for item in range(4):
        tilt = p["tilt"] + canvas.draws.normal(0.12)
        along, across = _place(canvas.turned(tilt))
        across = across - along**2 * canvas.draws.normal(0.004)
        length = p["length"] * canvas.draws.uniform(0.6, 1.4)
        ends = above(length - np.abs(along), np.zeros_like(length), 2.0 * _one(p))
        line = np.exp(-((across / p["width"]) ** 2)) * ends * _present(canvas, p["number"], item)
        mark = np.maximum(mark, line)
    return mark


def _pits(canvas: Canvas, p: Parameters) -> Field:
    """Round hollows with a raised rim."""
    mark = np.zeros_like(canvas.u)
    for item in range(6):
        along, across = _place(canvas)
        radius = p["radius"] * canvas.draws.uniform(0.6, 1.5)
        distance = np.hypot(along, across) / radius
        hollow = np.exp(-(distance**4)) - p["rim"] * np.exp(-(((distance - 1.35) / 0.25) ** 2))
        mark += hollow * _present(canvas, p["number"], item)
    return mark


def _crack(canvas: Canvas, p: Parameters) -> Field:
    """A thin line that wanders, with a branch."""
    wander = noise(canvas, 1.2 * _one(p), 24 * _one(p), 0.8 * _one(p), _one(p)) * p["wander"]
    along, across = _place(canvas, 12.0)
    ends = above(p["length"] - np.abs(along), np.zeros_like(p["length"]), 2.0 * _one(p))
    line = np.exp(-(((across + wander) / p["width"]) ** 2)) * ends
    branch = np.exp(-(((across - 0.6 * np.maximum(along, 0) + wander) / p["width"]) ** 2)) * ends * (along > 0)
    return np.asarray(np.maximum(line, p["branch"] * branch), dtype=np.float32)


def _inclusions(canvas: Canvas, p: Parameters) -> Field:
    """A few ragged lumps, elongated along the surface."""
    rough = smooth(canvas, p["rough"])
    mark = np.zeros_like(canvas.u)
    for item in range(3):
        along, across = _place(canvas)
        size = p["size"] * canvas.draws.uniform(0.7, 1.4)
        distance = np.hypot(along / p["stretch"], across) / size
        lump = above(1.0 - distance + 0.35 * rough, np.zeros_like(size), 0.12 * _one(p))
        mark = np.maximum(mark, lump * _present(canvas, p["number"], item))
    return mark


def _stain(canvas: Canvas, p: Parameters) -> Field:
    """A broad soft patch, often darker at its border."""
    along, across = _place(canvas, 18.0)
    distance = np.hypot(along, across * p["flat"]) / p["size"] + 0.25 * smooth(canvas, 10 * _one(p))
    inner = above(-distance, -_one(p), p["softness"])
    border = np.exp(-(((distance - 1.0) / 0.12) ** 2))
    return np.asarray(inner * (1 - p["border"]) + p["border"] * border, dtype=np.float32)


def _scale(canvas: Canvas, p: Parameters) -> Field:
    """Sharp grainy islands all over the part."""
    shape = noise(canvas, p["slope"], p["coarse"], 0.5 * _one(p), p["stretch"])
    island = above(shape, p["level"], 0.12 * _one(p))
    return np.asarray(island * (1.0 + p["grain"] * smooth(canvas, 0.5 * _one(p))), dtype=np.float32)


def _missing(canvas: Canvas, p: Parameters) -> Field:
    """Everything beyond a ragged edge is gone."""
    tilted = canvas.turned(p["tilt"] + canvas.draws.normal(0.2))
    _, across = tilted.around(canvas.draws.uniform(-6, 6), canvas.draws.uniform(-6, 6))
    edge = across - p["depth"] + p["ragged"] * noise(canvas, _one(p), 20 * _one(p), 0.6 * _one(p), _one(p))
    return above(edge, np.zeros_like(edge[:, :1, :1]), 0.5 * _one(p))


def _crease(canvas: Canvas, p: Parameters) -> Field:
    """A fold across the part, bright on one side and dark on the other."""
    along, across = _place(canvas.turned(p["tilt"] + canvas.draws.normal(0.15)), 14.0)
    across = np.asarray((across - along**2 * p["bow"] * 0.01) / p["width"], dtype=np.float32)
    fold, line = across * np.exp(0.5 - 0.5 * across**2), np.exp(-(across**2))
    return np.asarray(fold * p["sides"] + line * (1 - p["sides"]), dtype=np.float32)


def _roll_marks(canvas: Canvas, p: Parameters) -> Field:
    """A short mark repeated at a fixed pitch in one or two tracks."""
    mark = np.zeros_like(canvas.u)
    for item in range(2):
        along, across = _place(canvas)
        phase = (along / p["pitch"] + 0.5) % 1.0 - 0.5
        spot = np.exp(-((phase * p["pitch"] / p["length"]) ** 2) - (across / p["width"]) ** 2)
        mark = np.maximum(mark, spot * _present(canvas, p["number"], item))
    return mark


def _streaks(canvas: Canvas, p: Parameters) -> Field:
    """Long stripes along the surface, from end to end."""
    stripe = noise(canvas, p["slope"], 20 * _one(p), p["width"], 60 * _one(p))
    return above(stripe, p["level"], p["softness"])


def _drawn_lines(canvas: Canvas, p: Parameters) -> Field:
    """Thin lines along the surface, from end to end, with varying strength."""
    wave = p["wave"] * smooth(canvas, 20 * _one(p))
    fading = np.clip(1.0 + p["fading"] * noise(canvas, _one(p), 30 * _one(p), _one(p), 8 * _one(p)), 0, 1.5)
    mark = np.zeros_like(canvas.u)
    for item in range(3):
        _, across = _place(canvas)
        line = np.exp(-(((across + wave) / p["width"]) ** 2))
        mark = np.maximum(mark, line * _present(canvas, p["number"], item))
    return np.asarray(mark * fading, dtype=np.float32)


def _cluster(canvas: Canvas, p: Parameters) -> Field:
    """Many specks in one region."""
    along, across = _place(canvas, 18.0)
    inside = np.exp(-((along / p["stretch"]) ** 2 + across**2) / p["region"] ** 2)
    return np.asarray(np.minimum(grains(canvas, p["density"], p["size"], _one(p)), 1.0) * inside, dtype=np.float32)


def _ash(canvas: Canvas, p: Parameters) -> Field:
    """Fine specks everywhere, with varying density."""
    drift = np.exp(p["drift"] * smooth(canvas, 14 * _one(p)))
    return np.asarray(np.minimum(grains(canvas, p["density"], p["size"], p["stretch"]) * drift, 1.0), dtype=np.float32)


def _chatter(canvas: Canvas, p: Parameters) -> Field:
    """Regular bands across the surface."""
    fading = 0.6 + 0.4 * smooth(canvas, 20 * _one(p))
    return np.asarray(np.sin(_TURN * canvas.u / p["pitch"]) * np.clip(fading, 0, 1), dtype=np.float32)


def _hole(canvas: Canvas, p: Parameters) -> Field:
    along, across = _place(canvas, 20.0)
    distance = np.hypot(along, across * p["flat"]) + p["ragged"] * smooth(canvas, 3 * _one(p))
    return above(-distance, -p["radius"], 0.4 * _one(p))


def _smear(canvas: Canvas, p: Parameters) -> Field:
    """A rubbed region with fine lines."""
    along, across = _place(canvas, 16.0)
    inside = above(1.0 - np.hypot(along / p["stretch"], across) / p["size"], np.zeros_like(p["size"]), 0.3 * _one(p))
    lines = noise(canvas.turned(p["tilt"]), _one(p), 10 * _one(p), 0.5 * _one(p), 12 * _one(p))
    return np.asarray(inside * (0.4 + 0.6 * lines), dtype=np.float32)


def _flakes(canvas: Canvas, p: Parameters) -> Field:
    """Plates that have come off: peeling, spalling."""
    nearest, second, level = cells(canvas, p["size"], 0.9 * _one(p))
    rim = np.exp(-(((second - nearest) / 0.12) ** 2))
    return np.asarray(above(level, p["kept"], 0.01 * _one(p)) * (1.0 - p["rim"] * rim), dtype=np.float32)


def _wrinkles(canvas: Canvas, p: Parameters) -> Field:
    """Fine parallel folds within a region."""
    along, across = _place(canvas, 16.0)
    inside = np.exp(-(along**2 + across**2) / p["region"] ** 2)
    bend = p["bend"] * smooth(canvas, 10 * _one(p))
    return np.asarray(np.sin(_TURN * (across + 4 * bend) / p["pitch"]) * inside, dtype=np.float32)


def _family(name: str, draw: Callable[[Canvas, Parameters], Field], **ranges: Range) -> Family[Field]:
    return Family(name, ranges, draw)


_TILT = Range(-1.57, 1.57)
_NUMBER = Range(0.0, 0.9)

DEFECTS: tuple[Family[Field], ...] = (
    _family(
        "scratch",
        _scratches,
        tilt=_TILT,
        length=Range(6, 40, log=True),
        width=Range(0.4, 1.4, log=True),
        number=_NUMBER,
    ),
    _family("pit", _pits, radius=Range(1, 4.5, log=True), rim=Range(0, 0.7), number=_NUMBER),
    _family(
        "crack", _crack, wander=Range(0.8, 5), length=Range(12, 40), width=Range(0.35, 1, log=True), branch=Range(-1, 1)
    ),
    _family(
        "inclusion",
        _inclusions,
        rough=Range(1, 4),
        size=Range(1.5, 6, log=True),
        stretch=Range(1, 7, log=True),
        number=_NUMBER,
    ),
    _family(
        "stain",
        _stain,
        flat=Range(0.6, 1.6),
        size=Range(9, 26, log=True),
        softness=Range(0.08, 0.5),
        border=Range(0, 0.8),
    ),
    _family(
        "scale",
        _scale,
        slope=Range(0.6, 2.5),
        coarse=Range(5, 30, log=True),
        stretch=Range(1, 6, log=True),
        level=Range(0.2, 1.4),
        grain=Range(0, 0.5),
    ),
    _family("missing part", _missing, tilt=Range(-3.1, 3.1), depth=Range(0, 18), ragged=Range(0.2, 3, log=True)),
    _family("crease", _crease, tilt=_TILT, bow=Range(-1, 1), width=Range(0.8, 4, log=True), sides=Range(0, 1)),
    _family(
        "roll mark",
        _roll_marks,
        pitch=Range(6, 24, log=True),
        length=Range(1, 4, log=True),
        width=Range(0.6, 2.5, log=True),
        number=_NUMBER,
    ),
    _family(
        "streaks",
        _streaks,
        slope=Range(0, 1.5),
        width=Range(0.3, 2, log=True),
        level=Range(0.6, 2),
        softness=Range(0.1, 0.5),
    ),
    _family(
        "drawn line",
        _drawn_lines,
        wave=Range(0, 1.5),
        fading=Range(0, 1),
        width=Range(0.3, 1.2, log=True),
        number=_NUMBER,
    ),
    _family(
        "cluster",
        _cluster,
        stretch=Range(1, 3),
        region=Range(6, 18, log=True),
        density=Range(0.05, 0.3, log=True),
        size=Range(0.5, 1.2, log=True),
    ),
    _family(
        "ash",
        _ash,
        drift=Range(0.2, 1.2),
        density=Range(0.01, 0.15, log=True),
        size=Range(0.4, 1, log=True),
        stretch=Range(1, 5, log=True),
    ),
    _family("chatter", _chatter, pitch=Range(3, 20, log=True)),
    _family("hole", _hole, flat=Range(0.7, 1.4), ragged=Range(0, 1.5), radius=Range(3, 12, log=True)),
    _family("smear", _smear, stretch=Range(1, 3), size=Range(5, 16, log=True), tilt=_TILT),
    _family("flakes", _flakes, size=Range(4, 14, log=True), kept=Range(0.6, 0.92), rim=Range(0, 1)),
    _family("wrinkles", _wrinkles, region=Range(8, 24, log=True), bend=Range(0.1, 1), pitch=Range(2.5, 7, log=True)),
)

_LEAST_CONTRAST = 0.02
_BOTH_SIGNS_SHARE = 0.15
_MARK_JITTERS = (STEADY, STEADY, 0.08, 0.15, 0.35)  # each parameter of a mark draws one of these
_DISTRACTOR_JITTERS = (0.1, 0.3)
_SLOPE_UNITS = 2.0  # reach of the light and shadow of a raised mark


@dataclass(frozen=True)
class Defect:
    """A defect on a surface.

    Attributes:
        look: shape of the mark.
        depth: signed change of brightness at the centre of the mark.
        relief: 0 is a stain, 1 a bump or hollow that shows only by its bright and dark flanks.
        roughness: 0 is even, 1 is rough.
        grain_units: size of the roughness.
        spread: deviation of the log depth between images.
        both_signs: whether the mark is dark in some images and bright in others.
        tint: colour of the mark; only used for colour images.
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
    """Draw a mark of a family. Some parameters define the class, others vary freely."""
    return new_look(family, generator, _MARK_JITTERS)


def new_defect(look: Look[Field], surface: Tone, generator: np.random.Generator) -> Defect:
    """Draw how a mark shows. Its depth is relative to the surface's contrast, so a defect can be subtle."""
    sign = generator.choice((-1, 1), p=(0.65, 0.35))
    room = 1.0 - surface.level if sign > 0 else surface.level
    depth = np.exp(generator.uniform(np.log(1.5), np.log(8.0))) * max(surface.contrast, _LEAST_CONTRAST)
    return Defect(
        look=look,
        depth=float(sign * min(depth, 0.8 * room)),
        relief=float(generator.choice((0.0, generator.uniform(0.3, 1.0)))),
        roughness=float(generator.choice((0.0, generator.uniform(0.2, 1.0)))),
        grain_units=float(np.exp(generator.uniform(np.log(0.4), np.log(2.5)))),
        spread=float(generator.uniform(0.1, 0.4)),
        both_signs=bool(generator.uniform() < _BOTH_SIGNS_SHARE),
        tint=surface.tint if generator.uniform() < 0.5 else new_tint(generator),
    )


def new_distractor(families: tuple[Family[Field], ...], surface: Tone, generator: np.random.Generator) -> Defect:
    """Draw a faint, irrelevant mark that any part of a line may have: dust, drops, wear."""
    look = new_look(families[int(generator.integers(len(families)))], generator, _DISTRACTOR_JITTERS)
    depth = generator.uniform(0.4, 1.2) * max(surface.contrast, _LEAST_CONTRAST) * generator.choice((-1, 1))
    return Defect(look, float(depth), roughness=0.3, spread=0.5, both_signs=True, tint=surface.tint)


def draw_defect(defect: Defect, canvas: Canvas, light_angle: float) -> tuple[Field, Field]:
    """Draw a defect on every image of a canvas.

    Args:
        defect: defect to draw.
        canvas: canvas to draw on.
        light_angle: direction of the light in radians.

    Returns:
        Change of brightness, (images, side, side), and coverage by the tint, 0 to 1, of the same shape.
    """
    mark = defect.look.draw(canvas)
    cover = np.clip(np.abs(mark), 0.0, 1.0)
    if defect.roughness > 0:
        grain = smooth(canvas, np.full_like(canvas.angle, defect.grain_units))
        mark = mark * (1.0 + defect.roughness * grain)
    if defect.relief > 0:
        mark = (1.0 - defect.relief) * mark + defect.relief * _flanks(mark, light_angle)
    depth = defect.depth * np.exp(canvas.draws.normal(defect.spread))
    if defect.both_signs:
        depth = depth * np.sign(canvas.draws.uniform(-1, 1))
    return np.asarray(depth * mark, dtype=np.float32), np.asarray(cover, dtype=np.float32)


def _flanks(height: Field, light_angle: float) -> Field:
    """Bright slopes towards the light and dark slopes away from it; at most about 1."""
    step_units = UNITS / height.shape[-1]
    down, right = np.gradient(height, step_units, axis=(1, 2))
    slope = np.cos(light_angle) * right + np.sin(light_angle) * down
    return np.asarray(np.tanh(_SLOPE_UNITS * slope), dtype=np.float32)
