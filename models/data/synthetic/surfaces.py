"""Families of sound surfaces: rolled metal, weave, wood, leather, castings, print and others.

Each family draws a field with a mean near 0 and a deviation near 1. Lengths are in units of 1/64 of the image's side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.data.synthetic.canvas import Canvas, Field, above, cell_levels, cells, grains, noise, smooth
from models.data.synthetic.family import Family, Parameters, Range

_TURN = np.float32(2 * np.pi)


def _one(parameters: Parameters) -> Field:
    return np.ones_like(next(iter(parameters.values())))


def _standardised(field: Field) -> Field:
    """Zero mean and unit deviation over each image."""
    centred = field - field.mean(axis=(1, 2), keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=(1, 2), keepdims=True))
    return np.asarray(centred / (deviation + 1e-3), dtype=np.float32)


def _mottled(canvas: Canvas, p: Parameters) -> Field:
    return noise(canvas, p["slope"], p["coarse"], p["fine"], p["stretch"])


def _cast(canvas: Canvas, p: Parameters) -> Field:
    """Skewed noise: few deep hollows or few high crests."""
    field = noise(canvas, p["slope"], p["coarse"], p["fine"], _one(p))
    return _standardised(np.exp(p["skew"] * field))


def _ridged(canvas: Canvas, p: Parameters) -> Field:
    """Sharp creases where the noise crosses zero: leather, crumpled foil."""
    field = noise(canvas, p["slope"], p["coarse"], p["fine"], p["stretch"])
    return _standardised(np.sqrt(np.abs(field) + 0.02) * p["sign"])


def _patched(canvas: Canvas, p: Parameters) -> Field:
    """Islands of another tone with grain on them: oxide, worn coating."""
    shape = noise(canvas, p["slope"], p["coarse"], p["fine"], p["stretch"])
    island = above(shape, p["level"], p["softness"])
    return _standardised(island + p["grain"] * smooth(canvas, 0.3 * _one(p)))


def _granular(canvas: Canvas, p: Parameters) -> Field:
    density = p["cover"] / (4 * p["size"] ** 2)
    light = grains(canvas, density, p["size"], _one(p))
    dark = grains(canvas, density * p["balance"] / p["ratio"] ** 2, p["size"] * p["ratio"], _one(p))
    return _standardised(np.minimum(light, 1.2) - np.minimum(dark, 1.2))


def _fibrous(canvas: Canvas, p: Parameters) -> Field:
    """Fibres in two directions over a faint cloud: paper, felt, composite."""
    first = grains(canvas, p["density"], p["width"], p["length"])
    second = grains(canvas.turned(p["spread"]), p["density"], p["width"], p["length"])
    cloud = smooth(canvas, p["cloud"])
    return _standardised(np.minimum(first, 1.0) + np.minimum(second, 1.0) + 0.15 * cloud)


def _pebbled(canvas: Canvas, p: Parameters) -> Field:
    nearest, second, _ = cells(canvas, p["size"], p["disorder"])
    return _standardised(np.minimum(second - nearest, p["groove"]) - p["dome"] * nearest)


def _crystalline(canvas: Canvas, p: Parameters) -> Field:
    """Grains of uniform but different tones: spangle, etched metal, terrazzo."""
    nearest, second, level = cells(canvas, p["size"], p["disorder"])
    edge = above(second - nearest, p["edge"], 0.05 * _one(p))
    return _standardised(level + p["border"] * edge + p["grain"] * smooth(canvas, 0.4 * _one(p)))


def _crackled(canvas: Canvas, p: Parameters) -> Field:
    """Thin cracks between plates, over a cloudy ground: dry scale, glaze."""
    nearest, second, level = cells(canvas, p["size"], p["disorder"])
    crack = above(second - nearest, p["width"], 0.04 * _one(p))
    ground = noise(canvas, 1.5 * _one(p), 30 * _one(p), 0.5 * _one(p), _one(p))
    return _standardised(crack * (1.0 + p["plates"] * level) + p["cloud"] * ground)


def _plain_weave(canvas: Canvas, p: Parameters) -> Field:
    """Warp and weft threads that alternate at every crossing."""
    wobble = p["wobble"] * smooth(canvas, 12 * _one(p))
    across, along = canvas.u / p["pitch"] + wobble, canvas.v / (p["pitch"] * p["ratio"]) + wobble
    over = np.sin(0.5 * _TURN * across) * np.sin(0.5 * _TURN * along)
    warp, weft = np.abs(np.cos(0.5 * _TURN * across)), np.abs(np.cos(0.5 * _TURN * along))
    thread = np.where(over > 0, warp, p["shade"] * weft)
    return _standardised(thread + p["fuzz"] * smooth(canvas, 0.4 * _one(p)))


def _twill(canvas: Canvas, p: Parameters) -> Field:
    """Diagonal ribs made of short threads: denim, carbon cloth."""
    wobble = p["wobble"] * smooth(canvas, 12 * _one(p))
    thread = canvas.u / p["pitch"] + wobble
    rib = (np.floor(thread) + canvas.v / p["pitch"]) / p["float"]
    over = above(np.sin(_TURN * rib), np.zeros_like(thread[:, :1, :1]), 0.25 * _one(p))
    return _standardised(over * np.abs(np.sin(0.5 * _TURN * thread)) + p["fuzz"] * smooth(canvas, 0.4 * _one(p)))


def _dots(canvas: Canvas, p: Parameters) -> Field:
    """A square screen of dots: halftone, perforated sheet."""
    wave = np.cos(_TURN * canvas.u / p["pitch"]) + np.cos(_TURN * canvas.v / p["pitch"])
    return _standardised(above(wave + p["noise"] * smooth(canvas, _one(p)), p["level"], p["softness"]))


def _hexagonal(canvas: Canvas, p: Parameters) -> Field:
    """Three waves at 60 degrees: honeycomb, embossing."""
    third = canvas.turned(_TURN / 6 * _one(p))
    other = canvas.turned(-_TURN / 6 * _one(p))
    waves = sum(np.cos(_TURN * each.u / p["pitch"]) for each in (canvas, third, other))
    return _standardised(above(np.asarray(waves, dtype=np.float32), p["level"], p["softness"]))


def _knurled(canvas: Canvas, p: Parameters) -> Field:
    """Two crossing rows of ridges: knurls, chequer plate, woven wire."""
    crossing = canvas.turned(p["cross"])
    first, second = np.sin(_TURN * canvas.u / p["pitch"]), np.sin(_TURN * crossing.u / p["pitch"])
    ridge = np.maximum(first, second) * p["mix"] + (1 - p["mix"]) * first * second
    return _standardised(ridge + p["grain"] * smooth(canvas, 0.4 * _one(p)))


def _wooden(canvas: Canvas, p: Parameters) -> Field:
    """Annual rings cut lengthwise, with pores along the grain."""
    bend = smooth(canvas, 18 * _one(p)) * p["bend"]
    ring = (canvas.v + bend * 6 + 0.002 * p["arch"] * (canvas.u % 128 - 64) ** 2) / p["pitch"]
    profile = (ring % 1.0) ** p["sharpness"]
    pores = grains(canvas, p["pores"], 0.35 * _one(p), 14 * _one(p))
    return _standardised(profile - 0.7 * np.minimum(pores, 1.0) + 0.1 * smooth(canvas, 0.5 * _one(p)))


def _machined(canvas: Canvas, p: Parameters) -> Field:
    """Tool marks along lines or wide arcs, with varying depth: milling, turning, grinding."""
    x, y = canvas.around(0 * _one(p), p["radius"])
    path = np.hypot(x, y) / p["pitch"]
    depth = 1.0 + p["uneven"] * smooth(canvas, 10 * _one(p))
    teeth = np.sin(_TURN * path) + p["second"] * np.sin(_TURN * path * 0.37)
    streaks = noise(canvas, _one(p), 20 * _one(p), 0.4 * _one(p), 20 * _one(p))
    return _standardised(depth * teeth + p["streaks"] * streaks)


def _printed(canvas: Canvas, p: Parameters) -> Field:
    """Rows of blocks that are on or off: print, labels, circuits."""
    level = cell_levels(canvas, p["width"], p["height"])
    ink = above(level, p["cover"], 0.02 * _one(p))
    gap = above(np.abs((canvas.v / p["height"]) % 1.0 - 0.5), p["gap"], 0.03 * _one(p))
    return _standardised(ink * (1 - gap) + p["grain"] * smooth(canvas, 0.4 * _one(p)))


def _corrugated(canvas: Canvas, p: Parameters) -> Field:
    """Parallel ribs of a saw or wave profile: profiled sheet, belts, combed plaster."""
    wobble = p["wobble"] * smooth(canvas, 14 * _one(p))
    phase = (canvas.v / p["pitch"] + wobble) % 1.0
    rib = np.where(phase < p["duty"], phase / p["duty"], (1 - phase) / (1 - p["duty"]))
    return _standardised(rib ** p["shape"] + p["grain"] * smooth(canvas, 0.4 * _one(p)))


def _family(name: str, draw: Callable[[Canvas, Parameters], Field], **ranges: Range) -> Family[Field]:
    return Family(name, ranges, draw)


_COARSE = Range(6, 80, log=True)
_FINE = Range(0.25, 1.5, log=True)
_GRAIN = Range(0.0, 0.5)

SURFACES: tuple[Family[Field], ...] = (
    _family("mottled", _mottled, slope=Range(0.3, 3), coarse=_COARSE, fine=_FINE, stretch=Range(1, 3, log=True)),
    _family("rolled", _mottled, slope=Range(0.3, 2), coarse=_COARSE, fine=_FINE, stretch=Range(3, 14, log=True)),
    _family("brushed", _mottled, slope=Range(0, 1.5), coarse=_COARSE, fine=_FINE, stretch=Range(14, 80, log=True)),
    _family("cast", _cast, slope=Range(0.2, 2), coarse=Range(3, 20, log=True), fine=_FINE, skew=Range(-1, 1)),
    _family(
        "patched",
        _patched,
        slope=Range(0.8, 3),
        coarse=Range(6, 40, log=True),
        fine=_FINE,
        stretch=Range(1, 4, log=True),
        level=Range(-1, 1.2),
        softness=Range(0.05, 0.6, log=True),
        grain=_GRAIN,
    ),
    _family(
        "granular",
        _granular,
        cover=Range(0.06, 0.7, log=True),
        size=Range(0.4, 1.6, log=True),
        balance=Range(0, 1),
        ratio=Range(0.5, 1.5),
    ),
    _family(
        "ridged",
        _ridged,
        slope=Range(0.8, 2.5),
        coarse=Range(5, 30, log=True),
        fine=_FINE,
        stretch=Range(1, 4, log=True),
        sign=Range(0.5, 1),
    ),
    _family(
        "fibrous",
        _fibrous,
        density=Range(0.02, 0.2, log=True),
        width=Range(0.3, 0.8, log=True),
        length=Range(4, 20, log=True),
        spread=Range(0.3, 1.6),
        cloud=Range(2, 12),
    ),
    _family(
        "pebbled",
        _pebbled,
        size=Range(2.5, 12, log=True),
        disorder=Range(0.4, 1),
        groove=Range(0.1, 0.5),
        dome=Range(0, 1),
    ),
    _family(
        "crystalline",
        _crystalline,
        size=Range(2, 16, log=True),
        disorder=Range(0.5, 1),
        edge=Range(0.02, 0.1),
        border=Range(0, 0.6),
        grain=Range(0, 0.15),
    ),
    _family(
        "crackled",
        _crackled,
        size=Range(4, 20, log=True),
        disorder=Range(0.5, 1),
        width=Range(0.03, 0.12),
        plates=Range(0, 0.8),
        cloud=Range(0, 0.4),
    ),
    _family(
        "plain weave",
        _plain_weave,
        pitch=Range(2.2, 9, log=True),
        ratio=Range(0.6, 1.6),
        shade=Range(0.4, 1),
        wobble=Range(0, 0.12),
        fuzz=Range(0, 0.3),
    ),
    _family("twill", _twill, pitch=Range(2, 6, log=True), float=Range(2, 5), wobble=Range(0, 0.1), fuzz=Range(0, 0.3)),
    _family(
        "dots",
        _dots,
        pitch=Range(2.5, 12, log=True),
        level=Range(-1, 1.2),
        softness=Range(0.1, 0.6),
        noise=Range(0, 0.4),
    ),
    _family("hexagonal", _hexagonal, pitch=Range(2.5, 12, log=True), level=Range(-1, 1.8), softness=Range(0.2, 1)),
    _family("knurled", _knurled, pitch=Range(2.5, 10, log=True), cross=Range(0.7, 1.57), mix=Range(0, 1), grain=_GRAIN),
    _family(
        "wooden",
        _wooden,
        pitch=Range(3, 16, log=True),
        bend=Range(0.1, 1),
        arch=Range(0, 1),
        sharpness=Range(0.6, 4),
        pores=Range(0.005, 0.08, log=True),
    ),
    _family(
        "machined",
        _machined,
        pitch=Range(2.2, 8, log=True),
        radius=Range(30, 500, log=True),
        uneven=Range(0, 0.5),
        second=Range(0, 0.8),
        streaks=Range(0, 1),
    ),
    _family(
        "printed",
        _printed,
        width=Range(1.5, 8, log=True),
        height=Range(3, 12, log=True),
        cover=Range(0.3, 0.8),
        gap=Range(0.25, 0.45),
        grain=Range(0, 0.3),
    ),
    _family(
        "corrugated",
        _corrugated,
        pitch=Range(2.5, 14, log=True),
        duty=Range(0.15, 0.85),
        shape=Range(0.5, 2.5),
        wobble=Range(0, 0.15),
        grain=_GRAIN,
    ),
)

QUIET = SURFACES[:6]  # bare metal, plaster, plastic and castings
