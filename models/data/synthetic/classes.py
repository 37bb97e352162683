"""``Textures``: the procedural data set as classes of images, drawn when asked for and kept for a while.

A class is fixed by (seed, class index), an image by (seed, class index, image index): neither order nor number of other
images matters. This module refuses to know what is drawn.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.data.class_dataset import ClassDataset
from models.data.synthetic.canvas import Draws
from models.data.synthetic.lines import Part, picture, product_line
from models.errors import DatasetUnavailable

TEXTURES_VERSION = 2
"""Raised whenever the same seed would give other images; belongs in the record of what was trained on them."""

CLASSES_PER_LINE = 8
_LINE, _IMAGE = 1, 2  # what a seed is for, so that no two purposes share a stream


class Textures(ClassDataset):
    """Product lines of eight classes each: class ``i`` belongs to line ``i // classes_per_line``.

    Args:
        side: pixels, 16 or more.
        channels: 1 or 3.
        seed: of everything; sets of different seeds have nothing in common.
        lines: number of product lines; a longer set begins with the same lines.
        images_per_class: how many images ``images`` gives.
        kept_classes: how many classes stay in memory (20 grey images of 64 pixels take 80 kB).
    """

    classes_per_line = CLASSES_PER_LINE

    def __init__(
        self,
        side: int = 64,
        channels: int = 1,
        seed: int = 0,
        lines: int = 256,
        images_per_class: int = 20,
        kept_classes: int = 2048,
    ) -> None:
        if channels not in (1, 3) or side < 16 or lines < 1 or images_per_class < 1:
            raise DatasetUnavailable(
                f"textures with side {side}, {channels} channels, {lines} lines and {images_per_class} images a class; "
                "side from 16, 1 or 3 channels, and at least one line and one image are allowed"
            )
        self.name = f"textures seed {seed}"
        self.side, self.channels, self.seed, self.lines = side, channels, seed, lines
        self.images_per_class = images_per_class
        self._kept_classes = kept_classes
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._parts: dict[int, tuple[Part, ...]] = {}
        width = len(str(lines - 1))
        self.class_names = tuple(
            f"line{line:0{width}d}/class{index}" for line in range(lines) for index in range(self.classes_per_line)
        )

    def images(self, class_index: int) -> Tensor:
        """The first ``images_per_class`` images of a class: uint8 (count, channels, side, side)."""
        if class_index in self._kept:
            self._kept.move_to_end(class_index)
            return self._kept[class_index]
        drawn = self.images_at(class_index, range(self.images_per_class))
        self._kept[class_index] = drawn
        if len(self._kept) > self._kept_classes:
            self._kept.popitem(last=False)
        return drawn

    def images_at(self, class_index: int, image_indexes: Sequence[int]) -> Tensor:
        """Any images of a class, from its endless row: uint8 (count, channels, side, side), drawn anew every time."""
        if not image_indexes:
            return torch.empty(0, self.channels, self.side, self.side, dtype=torch.uint8)
        part = self.part(class_index)
        seeds = [np.random.SeedSequence((self.seed, _IMAGE, class_index, index)) for index in image_indexes]
        draws = Draws([np.random.Generator(np.random.PCG64(seed)) for seed in seeds])
        return torch.from_numpy(picture(part, draws, self.side, self.channels))

    def part(self, class_index: int) -> Part:
        """What the class looks like, in words and measures."""
        line = self.product_line(class_index)
        if line not in self._parts:
            generator = np.random.default_rng(np.random.SeedSequence((self.seed, _LINE, line)))
            self._parts[line] = product_line(generator, self.classes_per_line)
        return self._parts[line][class_index % self.classes_per_line]

    def count(self, class_index: int) -> int:
        """Number of images of one class."""
        return self.images_per_class

    def product_line(self, class_index: int) -> int:
        """The line that a class belongs to."""
        if not 0 <= class_index < len(self):
            raise DatasetUnavailable(f"{self.name} has classes 0 to {len(self) - 1}; class {class_index} was asked for")
        return class_index // self.classes_per_line
