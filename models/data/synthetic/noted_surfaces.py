"""Surfaces with notes: the picture shows the kind of the defect, the note says on which side of the part it is.

A class is a kind on a side, so neither the picture nor the note tells the classes apart. Notes are short, misspelt and
full of what does not matter, and every product line has words of its own for its sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.data.class_dataset import ClassDataset
from models.data.synthetic.canvas import Draws
from models.data.synthetic.defects import DEFECTS, new_defect
from models.data.synthetic.family import new_look
from models.data.synthetic.textures import Part, render, sound_part
from models.modalities.text import text_vector

NOTED_SURFACES_VERSION: Final = 1
"""Increased whenever the same seed would give other images or notes; part of the training record."""

KINDS, SIDES = 3, 2
CLASSES_PER_LINE: Final = KINDS * SIDES
IMAGES_PER_CLASS: Final = 20

TRAIN_SIDES: Final = (
    ("left", "right"), ("front", "back"), ("top", "bottom"), ("inside", "outside"), ("upper edge", "lower edge"),
    ("vorne", "hinten"), ("oben", "unten"), ("innen", "aussen"), ("face a", "face b"), ("cavity 1", "cavity 2"),
    ("north", "south"), ("lane 3", "lane 4"), ("inlet", "outlet"), ("head", "tail"), ("rim", "hub"),
)  # fmt: skip
TEST_SIDES: Final = (
    ("drive side", "operator side"), ("links", "rechts"), ("camera 1", "camera 2"), ("entry", "exit"),
    ("port", "starboard"), ("gauche", "droite"), ("nozzle k", "nozzle m"), ("floor", "ceiling"),
)  # fmt: skip
_FILLERS: Final = (
    "checked", "see photo", "again", "same as yesterday", "ok?", "rework", "shift 1", "shift 2", "shift 3", "urgent",
    "new tool", "after cleaning", "batch 4417", "batch 4418", "asked qa", "small", "large", "2 pcs", "hold", "scrap",
)  # fmt: skip

_FAMILIES: Final = (
    ("chatter", "streaks"),
    ("scale", "flakes", "missing part"),
    ("ash", "cluster", "pit"),
)
"""Bands, islands and specks: a product line has a defect of each."""

_CODES_SHARE: Final = 0.5
_TYPING_ERRORS: Final = 0.02
_MOST_FILLERS: Final = 2
_LEAST_DEPTH, _MOST_DEPTH = 6.0, 10.0
_LINE, _IMAGE, _NOTE = 1, 2, 3  # separate random streams per purpose


class NotedSurfaces(ClassDataset):
    """Product lines of six classes, three kinds of defect on two sides; class ``i`` is of line ``i // 6``.

    Args:
        side: height and width of the images in pixels.
        channels: 1 or 3.
        seed: of all classes.
        lines: number of product lines.
        sides: names of the two sides, of which a line has a pair.
        invented: share of the lines that have invented codes for their sides instead.
    """

    def __init__(
        self,
        side: int = 64,
        channels: int = 1,
        seed: int = 0,
        *,
        lines: int = 64,
        sides: Sequence[tuple[str, str]] = TRAIN_SIDES,
        invented: float = _CODES_SHARE,
    ) -> None:
        self.name = f"surfaces with notes, seed {seed}"
        self._size, self._seed = (channels, side), seed
        generators = [np.random.default_rng(np.random.SeedSequence((seed, _LINE, line))) for line in range(lines)]
        self._lines = [(_kinds(generator), _sides(generator, sides, invented)) for generator in generators]
        self.class_names = tuple(
            f"line{line:03d}/{kind.name} {kinds.index(kind)}, {side_name}"
            for line, (kinds, side_names) in enumerate(self._lines)
            for kind in kinds
            for side_name in side_names
        )
        self._kept: dict[int, Tensor] = {}

    def images(self, class_index: int) -> Tensor:
        """All images of one class: uint8 (count, channels, side, side)."""
        if class_index not in self._kept:
            kinds, _ = self._lines[self.product_line(class_index)]
            part = kinds[class_index % CLASSES_PER_LINE // SIDES]
            channels, side = self._size
            draws = Draws(self._generators(_IMAGE, class_index))
            self._kept[class_index] = torch.from_numpy(render(part, draws, side, channels))
        return self._kept[class_index]

    def notes(self, class_index: int) -> tuple[str, ...]:
        """The note of each image of one class."""
        _, side_names = self._lines[self.product_line(class_index)]
        return tuple(_note(side_names[class_index % SIDES], one) for one in self._generators(_NOTE, class_index))

    def vectors(self, class_index: int) -> Tensor:
        """The notes as vectors, see `text_vector`: float32 (count, size)."""
        return torch.stack([text_vector(note) for note in self.notes(class_index)])

    def count(self, class_index: int) -> int:
        """Number of images of one class."""
        return IMAGES_PER_CLASS

    def product_line(self, class_index: int) -> int:
        """Product line of a class."""
        return class_index // CLASSES_PER_LINE

    def _generators(self, purpose: int, class_index: int) -> list[np.random.Generator]:
        seeds = [(self._seed, purpose, class_index, index) for index in range(IMAGES_PER_CLASS)]
        return [np.random.default_rng(np.random.SeedSequence(seed)) for seed in seeds]


def _kinds(generator: np.random.Generator) -> list[Part]:
    """One quiet surface with clear marks of different shapes."""
    base, by_name = sound_part(generator), {family.name: family for family in DEFECTS}
    parts = []
    for names in _FAMILIES:
        family = by_name[str(generator.choice(names))]
        defect = new_defect(new_look(family, generator), base.tone, generator)
        room = 1 - base.tone.level if defect.depth > 0 else base.tone.level
        depth = generator.uniform(_LEAST_DEPTH, _MOST_DEPTH) * max(base.tone.contrast, 0.02)
        clear = replace(defect, depth=float(np.sign(defect.depth) * min(depth, 0.8 * room)), both_signs=False)
        parts.append(replace(base, name=defect.look.family.name, defects=(clear,)))
    return parts


def _sides(generator: np.random.Generator, sides: Sequence[tuple[str, str]], invented: float) -> tuple[str, str]:
    if generator.uniform() >= invented:
        return sides[int(generator.integers(len(sides)))]
    first, second = ("".join(generator.choice(list("abcdefghiklmnoprstuvwz0123456789"), 4)) for _ in range(SIDES))
    return first, second


def _note(side: str, generator: np.random.Generator) -> str:
    """A note that names the side among up to two other remarks, with a typing error now and then."""
    fillers = [
        _FILLERS[int(index)] for index in generator.integers(len(_FILLERS), size=generator.integers(_MOST_FILLERS + 1))
    ]
    place = int(generator.integers(len(fillers) + 1))
    note = str(generator.choice((" ", ", ", " - "))).join([*fillers[:place], side, *fillers[place:]])
    return "".join(letter for letter in note if generator.uniform() >= _TYPING_ERRORS)
