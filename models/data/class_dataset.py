"""What every data set looks like from outside: classes, each with uint8 images of one size, and views of such sets.

It refuses to know where images come from and how episodes are drawn from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from models.errors import DatasetUnavailable


class ClassDataset(ABC):
    """Classes of images, resized but not yet scaled to float; see `models.images.preprocessing.normalise`."""

    name: str
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @abstractmethod
    def images(self, class_index: int) -> Tensor:
        """All images of one class: uint8 (count, channels, side, side); the caller must not write to them."""

    @abstractmethod
    def count(self, class_index: int) -> int:
        """Number of images of one class, without making them."""

    def product_line(self, class_index: int) -> int:
        """Which product line a class belongs to: classes of one line differ in what an inspector looks for alone.

        Sets that know no lines are one line, number 0.
        """
        return 0

    def origins(self, class_index: int) -> tuple[str, ...]:
        """For each image of a class, a name that it shares with all images, of any class, cut from the same source.

        An honest split keeps images of one origin on one side. Without such knowledge every image is its own origin.
        """
        return tuple(f"{class_index}/{index}" for index in range(self.count(class_index)))


class ArrayDataset(ClassDataset):
    """Classes whose images are held in memory.

    Args:
        name: what the set is called in reports.
        class_names: a name for each class.
        arrays: uint8 (count, channels, side, side), one for each class.
    """

    def __init__(self, name: str, class_names: Sequence[str], arrays: Sequence[Tensor]) -> None:
        if len(class_names) != len(arrays):
            raise DatasetUnavailable(f"{name}: {len(class_names)} class names came for {len(arrays)} classes")
        self.name = name
        self.class_names = tuple(class_names)
        self._arrays = tuple(arrays)

    def images(self, class_index: int) -> Tensor:
        """All images of one class: uint8 (count, channels, side, side)."""
        return self._arrays[class_index]

    def count(self, class_index: int) -> int:
        """Number of images of one class."""
        return self._arrays[class_index].shape[0]


class DatasetSubset(ClassDataset):
    """Some classes of another set, in a given order."""

    def __init__(self, parent: ClassDataset, class_indexes: Sequence[int], name: str) -> None:
        self.name = name
        self.class_names = tuple(parent.class_names[index] for index in class_indexes)
        self._parent = parent
        self._class_indexes = tuple(class_indexes)

    def images(self, class_index: int) -> Tensor:
        """All images of one class: uint8 (count, channels, side, side)."""
        return self._parent.images(self._class_indexes[class_index])

    def count(self, class_index: int) -> int:
        """Number of images of one class."""
        return self._parent.count(self._class_indexes[class_index])

    def product_line(self, class_index: int) -> int:
        """The parent's product line."""
        return self._parent.product_line(self._class_indexes[class_index])

    def origins(self, class_index: int) -> tuple[str, ...]:
        """The parent's origins."""
        return self._parent.origins(self._class_indexes[class_index])


class QuarterTurnDataset(ClassDataset):
    """Four classes for each of the parent's: its images turned by 0, 90, 180 and 270 degrees (Santoro et al. 2016).

    Class ``4 * i + q`` is the parent's class ``i`` after ``q`` quarter turns against the clock.
    """

    def __init__(self, parent: ClassDataset) -> None:
        self.name = f"{parent.name} in four turns"
        self.class_names = tuple(f"{name}/turn{90 * quarter}" for name in parent.class_names for quarter in range(4))
        self._parent = parent

    def images(self, class_index: int) -> Tensor:
        """All images of one class: uint8 (count, channels, side, side)."""
        index, quarter = divmod(class_index, 4)
        return torch.rot90(self._parent.images(index), quarter, dims=(2, 3)).contiguous()

    def count(self, class_index: int) -> int:
        """Number of images of one class."""
        return self._parent.count(class_index // 4)

    def product_line(self, class_index: int) -> int:
        """The parent's product line."""
        return self._parent.product_line(class_index // 4)

    def origins(self, class_index: int) -> tuple[str, ...]:
        """The parent's origins."""
        return self._parent.origins(class_index // 4)
