"""A product under a fixed camera: pictures that differ in a small defect, position, exposure and sensor noise.

All pictures of one `Fixture` show the same housing, holes, screws and print at about the same place: each fixture has
a play of its own, 1 to 3 % of the picture, by which parts are shifted. The exposure varies by 5 %. Defective parts have
one defect that changes 0.5 to 2 % of the picture's area.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.data.synthetic.camera import Bytes, Camera, photograph
from models.data.synthetic.canvas import Canvas, Draws, Field, new_canvas
from models.data.synthetic.defects import DEFECTS, Defect, draw_defect
from models.data.synthetic.family import Look, new_look
from models.data.synthetic.surfaces import QUIET
from models.errors import DatasetUnavailable

SIDE: Final = 200
"""Height and width of the pictures in pixels."""

MIN_PLAY, MAX_SHIFT = 2, 6
"""Range of a fixture's play: the maximum distance of a part from its usual place in each direction, in pixels."""

SMALLEST_DEFECT: Final = 0.005
LARGEST_DEFECT: Final = 0.02
"""Area of a defect as a share of the picture."""

VISIBLE: Final = 0.04
"""Change of a channel, of full scale, from which a pixel counts as part of the defect."""

_SCALE: Final = 2  # the scene is drawn larger and averaged, for smooth edges and shifts of half a pixel
_SCENE: Final = (SIDE + 2 * MAX_SHIFT) * _SCALE
_TEXT_HEIGHT: Final = 52  # of the font, in scene pixels
_ATTEMPTS: Final = 200
_CAMERA: Final = Camera(gradient=0.01, exposure=0.05, blur_units=0.15, noise=0.01, light_angle=0.8)
_CHARACTERS: Final = "ABCDEFGHKLMNPRSTUVXYZ23456789"
_MATERIALS: Final = ((0.62, 0.63, 0.65), (0.2, 0.2, 0.21), (0.22, 0.36, 0.6), (0.7, 0.6, 0.35), (0.16, 0.42, 0.26))

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Spot:
    """A round feature: centre and radius in scene pixels."""

    x: int
    y: int
    radius: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What is mounted where; a defect may change it.

    Attributes:
        body: left, top, right and bottom edge of the housing in scene pixels.
        corner: radius of the housing's corners in scene pixels.
        material: colour of the housing.
        screws: mounted screws.
        holes: open holes.
        empty: screw holes without a screw.
        text: the print.
        text_at: its left upper corner in scene pixels.
        boss: centre and radius of a raised disc.
    """

    body: tuple[int, int, int, int]
    corner: int
    material: Colour
    screws: tuple[Spot, ...]
    holes: tuple[Spot, ...]
    text: str
    text_at: tuple[int, int]
    boss: Spot
    empty: tuple[Spot, ...] = ()


@dataclass(frozen=True, slots=True)
class PhysicalPart:
    """One physical part.

    Attributes:
        defect: kind of its defect, or None for a good part.
        scene: float32 (side, side, 3), 0 to 1, as drawn: larger than a picture.
        play: see `Fixture.play`.
    """

    defect: str | None
    scene: Field
    play: int


@dataclass(frozen=True, slots=True)
class PartPicture:
    """A picture of a part.

    Attributes:
        label: "good", or the kind of the defect.
        part: number of the physical part; several pictures may show the same one.
        pixels: uint8 (3, side, side).
    """

    label: str
    part: int
    pixels: Bytes


class Fixture:
    """A product under a fixed camera.

    Args:
        generator: decides the layout, the surfaces, the print and the play.

    Attributes:
        play: maximum distance of a part from its usual place in each direction, in pixels.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._layout = _new_layout(generator)
        self._surfaces = _surface(generator), _surface(generator)  # of the background and the housing
        self._sound = self._draw(self._layout)
        self.play = int(generator.integers(MIN_PLAY, MAX_SHIFT, endpoint=True))

    def part(self, generator: np.random.Generator, defect: str | None = None) -> PhysicalPart:
        """Make a part.

        Args:
            generator: decides place, size and shape of the defect.
            defect: one of `DEFECT_KINDS`, or None for a good part.

        Raises:
            DatasetUnavailable: there is no such kind of defect.
        """
        if defect is None:
            return PhysicalPart(None, self._sound, self.play)
        if defect not in DEFECT_KINDS:
            raise DatasetUnavailable(f"no defect {defect!r}; allowed: {', '.join(DEFECT_KINDS)}")
        for _ in range(_ATTEMPTS):
            scene = self._with_defect(generator, defect)
            if SMALLEST_DEFECT <= self.defect_area(scene) <= LARGEST_DEFECT:
                return PhysicalPart(defect, scene, self.play)
        raise DatasetUnavailable(f"no {defect} of the allowed size after {_ATTEMPTS} attempts; use another generator")

    def defect_area(self, scene: Field) -> float:
        """Share of a picture's area in which the scene of a part differs visibly from that of a good part."""
        changed = np.abs(_in_pixels(scene) - _in_pixels(self._sound)).max(axis=2) > VISIBLE
        return float(changed.sum()) / SIDE**2

    def _with_defect(self, generator: np.random.Generator, defect: str) -> Field:
        if defect in _LAYOUT_CHANGES:
            return self._draw(_LAYOUT_CHANGES[defect](self._layout, generator))
        if defect in _SCENE_CHANGES:
            return _SCENE_CHANGES[defect](self._sound, self._layout, generator)
        return _with_mark(self._sound, _MARKS[defect], self._layout, generator)

    def _draw(self, layout: Layout) -> Field:
        background, housing = self._surfaces
        image = Image.new("RGB", (_SCENE, _SCENE), _rgb((0.33, 0.33, 0.32)))
        pen = ImageDraw.Draw(image)
        left, top, right, bottom = layout.body
        pen.rounded_rectangle((left + 5, top + 6, right + 5, bottom + 6), layout.corner, _rgb((0.18, 0.18, 0.18)))
        body = Image.new("L", image.size)
        ImageDraw.Draw(body).rounded_rectangle(layout.body, layout.corner, 255)
        image.paste(_rgb(layout.material), mask=body)
        pen.rounded_rectangle(layout.body, layout.corner, outline=_rgb(_lit(layout.material, 1.25)), width=3)
        _draw_boss(pen, layout)
        for spot in layout.holes:
            _draw_hole(pen, spot, layout.material)
        for spot in layout.empty:
            _draw_hole(pen, replace(spot, radius=round(0.55 * spot.radius)), layout.material)
        for spot in layout.screws:
            _draw_screw(pen, spot)
        dark = sum(layout.material) > 1.2
        pen.text(
            layout.text_at,
            layout.text,
            _rgb((0.08,) * 3 if dark else (0.92,) * 3),
            ImageFont.load_default(_TEXT_HEIGHT),
        )
        on_body = np.asarray(body, dtype=np.float32)[:, :, None] / 255
        texture = 1.0 + 0.06 * np.where(on_body > 0.5, housing[:, :, None], background[:, :, None])
        return np.asarray(np.clip(np.asarray(image, dtype=np.float32) / 255 * texture, 0, 1), dtype=np.float32)


def photographs(part: PhysicalPart, generator: np.random.Generator, count: int) -> Bytes:
    """Photograph a part, each time with its own shift, exposure and noise: uint8 (count, 3, side, side)."""
    middle, reach = MAX_SHIFT * _SCALE, part.play * _SCALE
    offsets = generator.integers(middle - reach, middle + reach + 1, (count, 2))
    pictures = np.stack([_in_pixels(part.scene, int(x), int(y)) for x, y in offsets])  # (count, side, side, 3)
    brightness = np.asarray(pictures.mean(axis=3), dtype=np.float32)  # (count, side, side)
    tints = np.asarray((pictures / np.maximum(brightness, 1e-3)[..., None]).transpose(0, 3, 1, 2), dtype=np.float32)
    return photograph(_canvas(generator.spawn(count), SIDE), brightness, tints, _CAMERA, channels=3)


def part_pictures(
    fixture: Fixture, generator: np.random.Generator, defect: str | None, parts: int, pictures_per_part: int = 1
) -> list[PartPicture]:
    """Make parts of one kind, numbered from 0, and photograph each of them."""
    pictures: list[PartPicture] = []
    for number in range(parts):
        photos = photographs(fixture.part(generator, defect), generator, pictures_per_part)
        pictures += [PartPicture(defect or "good", number, pixels) for pixels in photos]
    return pictures


def _new_layout(generator: np.random.Generator) -> Layout:
    """Draw a layout. Screws and holes take some of eight places along the edge of the housing."""
    middle, (half_width, half_height) = _SCENE // 2, generator.integers(125, 165, 2).tolist()
    left, top, right, bottom = middle - half_width, middle - half_height, middle + half_width, middle + half_height
    inset, radius = 34, int(generator.integers(19, 24))
    columns, rows = (left + inset, middle, right - inset), (top + inset, middle, bottom - inset)
    places = [(x, y) for x in columns for y in rows if (x, y) != (middle, middle)]
    chosen = [places[index] for index in generator.permutation(len(places))[:5]]
    screws, holes = chosen[: int(generator.integers(2, 4))], chosen[3:]
    text = "".join(generator.choice(list(_CHARACTERS), 5))
    boss_up = bool(generator.integers(2))
    return Layout(
        body=(left, top, right, bottom),
        corner=int(generator.integers(4, 40)),
        material=_MATERIALS[int(generator.integers(len(_MATERIALS)))],
        screws=tuple(Spot(x, y, radius) for x, y in screws),
        holes=tuple(Spot(x, y, radius) for x, y in holes),
        text=text,
        text_at=(middle - 76, middle + (8 if boss_up else -60)),
        boss=Spot(middle, middle + (-38 if boss_up else 38), int(generator.integers(24, 36))),
    )


def _surface(generator: np.random.Generator) -> Field:
    """A quiet surface, (scene, scene)."""
    family = QUIET[int(generator.integers(len(QUIET)))]
    field = new_look(family, generator).draw(_canvas([generator], _SCENE))[0]
    return np.asarray(np.clip(field, -2.5, 2.5), dtype=np.float32)


def _canvas(generators: Sequence[np.random.Generator], side: int) -> Canvas:
    still = np.zeros((len(generators), 1, 1), dtype=np.float32)
    return new_canvas(Draws(generators), side, still, np.ones_like(still))


def _in_pixels(scene: Field, x: int = MAX_SHIFT * _SCALE, y: int = MAX_SHIFT * _SCALE) -> Field:
    """The part of a scene that the camera sees, from (x, y), averaged to the size of a picture: (side, side, 3)."""
    seen = scene[y : y + SIDE * _SCALE, x : x + SIDE * _SCALE]
    return np.asarray(seen.reshape(SIDE, _SCALE, SIDE, _SCALE, 3).mean(axis=(1, 3)), dtype=np.float32)


def _rgb(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(1.0, value)) for value in colour)
    return red, green, blue


def _lit(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def _disc(spot: Spot) -> tuple[int, int, int, int]:
    return spot.x - spot.radius, spot.y - spot.radius, spot.x + spot.radius, spot.y + spot.radius


def _draw_boss(pen: ImageDraw.ImageDraw, layout: Layout) -> None:
    spot, material = layout.boss, layout.material
    pen.ellipse(_disc(spot), _rgb(_lit(material, 1.15)), _rgb(_lit(material, 0.7)), width=3)
    pen.ellipse(_disc(replace(spot, radius=spot.radius // 2)), _rgb(_lit(material, 0.85)))


def _draw_hole(pen: ImageDraw.ImageDraw, spot: Spot, material: Colour) -> None:
    pen.ellipse(_disc(spot), _rgb((0.05, 0.05, 0.05)), _rgb(_lit(material, 1.35)), width=3)


def _draw_screw(pen: ImageDraw.ImageDraw, spot: Spot) -> None:
    pen.ellipse(_disc(spot), _rgb((0.78, 0.78, 0.76)), _rgb((0.4, 0.4, 0.4)), width=3)
    reach, width = round(0.6 * spot.radius), max(3, spot.radius // 4)
    pen.line((spot.x - reach, spot.y, spot.x + reach, spot.y), _rgb((0.2, 0.2, 0.2)), width)
    pen.line((spot.x, spot.y - reach, spot.x, spot.y + reach), _rgb((0.2, 0.2, 0.2)), width)


def _without_screw(layout: Layout, generator: np.random.Generator) -> Layout:
    missing = int(generator.integers(len(layout.screws)))
    others = tuple(spot for index, spot in enumerate(layout.screws) if index != missing)
    return replace(layout, screws=others, empty=(layout.screws[missing],))


def _without_hole(layout: Layout, generator: np.random.Generator) -> Layout:
    missing = int(generator.integers(len(layout.holes)))
    return replace(layout, holes=tuple(spot for index, spot in enumerate(layout.holes) if index != missing))


def _with_moved_screw(layout: Layout, generator: np.random.Generator) -> Layout:
    moved, angle = int(generator.integers(len(layout.screws))), generator.uniform(-np.pi, np.pi)
    distance = generator.uniform(12, 24)
    screw = layout.screws[moved]
    place = replace(screw, x=screw.x + round(distance * np.cos(angle)), y=screw.y + round(distance * np.sin(angle)))
    screws = (*layout.screws[:moved], place, *layout.screws[moved + 1 :])
    return replace(layout, screws=screws)


def _with_other_text(layout: Layout, generator: np.random.Generator) -> Layout:
    changed = list(layout.text)
    for place in generator.permutation(len(changed))[: int(generator.integers(2, 5))]:
        changed[place] = str(generator.choice([letter for letter in _CHARACTERS if letter != changed[place]]))
    return replace(layout, text="".join(changed))


def _with_burr(scene: Field, layout: Layout, generator: np.random.Generator) -> Field:
    """Ragged material that stands out over one edge of the housing."""
    left, top, right, bottom = layout.body
    horizontal, far = bool(generator.integers(2)), bool(generator.integers(2))
    first, last = (left, right) if horizontal else (top, bottom)
    length = int(generator.integers(50, 150))
    begin = int(generator.integers(first + layout.corner // 2, last - layout.corner // 2 - length))
    edge, outwards = ((bottom, right), (top, left))[not far][not horizontal], 1 if far else -1
    along = np.linspace(begin, begin + length, 14)
    height = outwards * generator.uniform(4, 20, len(along))
    outline = [(begin, edge - outwards * 3), *zip(along, edge + height, strict=True), (begin + length, edge)]
    points = [(float(a), float(b)) if horizontal else (float(b), float(a)) for a, b in outline]
    burr = Image.new("L", (_SCENE, _SCENE))
    ImageDraw.Draw(burr).polygon(points, fill=255)
    cover = np.asarray(burr, dtype=np.float32)[:, :, None] / 255
    colour = np.asarray(_lit(layout.material, 1.3), dtype=np.float32)
    return np.asarray(scene + cover * (np.minimum(colour, 1) - scene), dtype=np.float32)


def _with_smear(scene: Field, layout: Layout, generator: np.random.Generator) -> Field:
    """Wet print that was wiped along the line over one or two letters."""
    width, reach = int(generator.integers(30, 70)), int(generator.integers(12, 30))
    left, top = layout.text_at[0] + int(generator.integers(0, 150 - width)), layout.text_at[1] + 8
    region = slice(top, top + _TEXT_HEIGHT), slice(left, left + width + reach)
    shifted = [scene[region[0], left - step : left - step + width + reach] for step in range(reach)]
    smeared = scene.copy()
    smeared[region] = np.mean(shifted, axis=0, dtype=np.float32)
    return smeared


@dataclass(frozen=True, slots=True)
class _Mark:
    """A mark on the surface: its family, and how it shows."""

    family: str
    point: Mapping[str, float]
    depth: float
    relief: float = 0.0
    tint: Colour = (1.0, 1.0, 1.0)


_MARKS: Final = {
    "scratch": _Mark("scratch", {"length": 0.55, "width": 0.5, "number": 0.0}, depth=0.3),
    "dent": _Mark("pit", {"radius": 0.85, "rim": 0.4, "number": 0.0}, depth=-0.3, relief=0.8),
    "stain": _Mark("inclusion", {"size": 0.7, "stretch": 0.2, "number": 0.0}, depth=-0.15, tint=(1.2, 1.0, 0.7)),
}

_LAYOUT_CHANGES: Final[Mapping[str, Callable[[Layout, np.random.Generator], Layout]]] = {
    "missing screw": _without_screw,
    "missing hole": _without_hole,
    "wrong print": _with_other_text,
    "moved screw": _with_moved_screw,
}

_SCENE_CHANGES: Final[Mapping[str, Callable[[Field, Layout, np.random.Generator], Field]]] = {
    "burr": _with_burr,
    "smeared print": _with_smear,
}

DEFECT_KINDS: Final = (*_MARKS, *_LAYOUT_CHANGES, *_SCENE_CHANGES)


def _with_mark(scene: Field, mark: _Mark, layout: Layout, generator: np.random.Generator) -> Field:
    """Draw a scratch, dent or stain somewhere on the housing."""
    family = next(family for family in DEFECTS if family.name == mark.family)
    free = new_look(family, generator)
    look: Look[Field] = replace(free, point={**free.point, **mark.point})
    defect, canvas = Defect(look, mark.depth, mark.relief, spread=0.2), _canvas([generator], _SCENE // _SCALE)
    change, cover = (
        field[0].repeat(_SCALE, 0).repeat(_SCALE, 1)[:, :, None]  # (scene, scene, 1)
        for field in draw_defect(defect, canvas, _CAMERA.light_angle)
    )
    left, top, right, bottom = layout.body
    inside = np.zeros((_SCENE, _SCENE, 1), dtype=np.float32)
    inside[top:bottom, left:right] = 1.0
    tint = 1.0 + (np.asarray(mark.tint, dtype=np.float32) - 1.0) * cover
    marked = np.clip(scene * tint + change, 0, 1)
    return np.asarray(scene + inside * (marked - scene), dtype=np.float32)
