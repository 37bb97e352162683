"""Defects: where they lie on the part and how deep, as a mark to be laid over any surface.

Marks are fields from -1 to 1: their sign and height say how far the surface there departs from sound; the finish
decides whether that is darker or brighter. Lengths are in units of 1/64 of the image's side. This module refuses to
know which surface it spoils.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.data.synthetic.canvas import Canvas, Field
from models.data.synthetic.family import Family, Parameters, Range
from models.data.synthetic.fields import above, cells, grains, noise, smooth

_REACH = 26.0  # how far from the centre, in units, a local defect may lie
_TURN = np.float32(2 * np.pi)


def _one(parameters: Parameters) -> Field:
    return np.ones_like(next(iter(parameters.values())))


def _place(canvas: Canvas, reach: float = _REACH) -> tuple[Field, Field]:
    """Coordinates along and across the surface around a point drawn by chance."""
    return canvas.around(canvas.draws.uniform(-reach, reach), canvas.draws.uniform(-reach, reach))


def _present(canvas: Canvas, share: Field, item: int) -> Field:
    """1 where an image has its ``item``-th mark, 0 where not; the first is always there: (images, 1, 1)."""
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
    """A few ragged lumps, drawn out along the surface's direction."""
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
    """Sharp islands with grain of their own, all over the part."""
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
    """A fold right across: bright on one side, dark on the other."""
    along, across = _place(canvas.turned(p["tilt"] + canvas.draws.normal(0.15)), 14.0)
    across = np.asarray((across - along**2 * p["bow"] * 0.01) / p["width"], dtype=np.float32)
    fold, line = across * np.exp(0.5 - 0.5 * across**2), np.exp(-(across**2))
    return np.asarray(fold * p["sides"] + line * (1 - p["sides"]), dtype=np.float32)


def _roll_marks(canvas: Canvas, p: Parameters) -> Field:
    """The same short mark again and again at one distance, in one or two tracks."""
    mark = np.zeros_like(canvas.u)
    for item in range(2):
        along, across = _place(canvas)
        phase = (along / p["pitch"] + 0.5) % 1.0 - 0.5
        spot = np.exp(-((phase * p["pitch"] / p["length"]) ** 2) - (across / p["width"]) ** 2)
        mark = np.maximum(mark, spot * _present(canvas, p["number"], item))
    return mark


def _streaks(canvas: Canvas, p: Parameters) -> Field:
    """Long stripes along the surface's direction, from end to end."""
    stripe = noise(canvas, p["slope"], 20 * _one(p), p["width"], 60 * _one(p))
    return above(stripe, p["level"], p["softness"])


def _drawn_lines(canvas: Canvas, p: Parameters) -> Field:
    """Thin lines along the surface's direction, from end to end, now stronger, now weaker."""
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
    """Fine specks everywhere, denser here and there."""
    drift = np.exp(p["drift"] * smooth(canvas, 14 * _one(p)))
    return np.asarray(np.minimum(grains(canvas, p["density"], p["size"], p["stretch"]) * drift, 1.0), dtype=np.float32)


def _chatter(canvas: Canvas, p: Parameters) -> Field:
    """Regular bands across the surface's direction."""
    fading = 0.6 + 0.4 * smooth(canvas, 20 * _one(p))
    return np.asarray(np.sin(_TURN * canvas.u / p["pitch"]) * np.clip(fading, 0, 1), dtype=np.float32)


def _hole(canvas: Canvas, p: Parameters) -> Field:
    along, across = _place(canvas, 20.0)
    distance = np.hypot(along, across * p["flat"]) + p["ragged"] * smooth(canvas, 3 * _one(p))
    return above(-distance, -p["radius"], 0.4 * _one(p))


def _smear(canvas: Canvas, p: Parameters) -> Field:
    """A rubbed region with fine lines of its own."""
    along, across = _place(canvas, 16.0)
    inside = above(1.0 - np.hypot(along / p["stretch"], across) / p["size"], np.zeros_like(p["size"]), 0.3 * _one(p))
    lines = noise(canvas.turned(p["tilt"]), _one(p), 10 * _one(p), 0.5 * _one(p), 12 * _one(p))
    return np.asarray(inside * (0.4 + 0.6 * lines), dtype=np.float32)


def _flakes(canvas: Canvas, p: Parameters) -> Field:
    """Some plates have come off: peeling, spalling."""
    nearest, second, level = cells(canvas, p["size"], 0.9 * _one(p))
    rim = np.exp(-(((second - nearest) / 0.12) ** 2))
    return np.asarray(above(level, p["kept"], 0.01 * _one(p)) * (1.0 - p["rim"] * rim), dtype=np.float32)


def _wrinkles(canvas: Canvas, p: Parameters) -> Field:
    """Fine folds that run side by side within a region."""
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
