"""Datasets as classes of uint8 images of one size, and views of them."""

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
        """All images of one class: uint8 (count, channels, side, side). Do not modify them."""

    @abstractmethod
    def count(self, class_index: int) -> int:
        """Number of images of one class."""

    def vectors(self, class_index: int) -> Tensor | None:
        """The second modality of the images of one class: float32 (count, size), or None without one."""
        return None

    def product_line(self, class_index: int) -> int:
        """Product line of a class. Classes of a line differ only in what an inspector looks for; the default is 0."""
        return 0


class ArrayDataset(ClassDataset):
    """A dataset in memory.

    Args:
        name: name of the dataset.
        class_names: name of each class.
        arrays: uint8 (count, channels, side, side) per class.
        vectors: float32 (count, size) per class, of datasets with a second modality.
    """

    def __init__(
        self, name: str, class_names: Sequence[str], arrays: Sequence[Tensor], vectors: Sequence[Tensor] | None = None
    ) -> None:
        if len(class_names) != len(arrays):
            raise DatasetUnavailable(f"{name} has {len(class_names)} class names for {len(arrays)} classes")
        self.name = name
        self.class_names = tuple(class_names)
        self._arrays = tuple(arrays)
        self._vectors = None if vectors is None else tuple(vectors)

    def images(self, class_index: int) -> Tensor:
        """All images of one class: uint8 (count, channels, side, side)."""
        return self._arrays[class_index]

    def count(self, class_index: int) -> int:
        """Number of images of one class."""
        return self._arrays[class_index].shape[0]

    def vectors(self, class_index: int) -> Tensor | None:
        """The second modality of the images of one class: float32 (count, size), or None."""
        return None if self._vectors is None else self._vectors[class_index]


class DatasetSubset(ClassDataset):
    """Some classes of another dataset, in a given order."""

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

    def vectors(self, class_index: int) -> Tensor | None:
        """The second modality of the images of the class in the other dataset."""
        return self._parent.vectors(self._class_indexes[class_index])

    def product_line(self, class_index: int) -> int:
        """Product line of the class in the other dataset."""
        return self._parent.product_line(self._class_indexes[class_index])


class QuarterTurnDataset(ClassDataset):
    """Four classes per class of another dataset, by rotation (Santoro et al. 2016).

    Class ``4 * i + q`` is class ``i`` after ``q`` counterclockwise quarter turns.
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
        """Product line of the class in the other dataset."""
        return self._parent.product_line(class_index // 4)
