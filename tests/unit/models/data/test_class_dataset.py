"""Datasets in memory, subsets and quarter turns."""

from __future__ import annotations

import pytest
import torch

from models.data.class_dataset import ArrayDataset, DatasetSubset, QuarterTurnDataset
from models.errors import DatasetUnavailable


class Lines(ArrayDataset):
    """Two classes per product line."""

    def product_line(self, class_index: int) -> int:
        return class_index // 2


def four_classes() -> Lines:
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator) for count in (1, 2, 3, 4)]
    return Lines("four", ["a", "b", "c", "d"], arrays)


def test_a_subset_has_the_given_classes_in_order() -> None:
    parent = four_classes()
    subset = DatasetSubset(parent, [3, 0], "two")
    assert len(subset) == 2
    assert subset.class_names == ("d", "a")
    assert [subset.count(0), subset.count(1)] == [4, 1]
    assert torch.equal(subset.images(0), parent.images(3))
    assert [subset.product_line(0), subset.product_line(1)] == [1, 0]


def test_rotated_classes_are_in_the_product_line_of_the_upright_class() -> None:
    parent = four_classes()
    turned = QuarterTurnDataset(parent)
    assert len(turned) == 16
    assert turned.class_names[9] == "c/turn90"
    assert turned.count(9) == 3
    assert turned.product_line(9) == 1
    assert torch.equal(turned.images(8), parent.images(2))
    assert torch.equal(torch.rot90(turned.images(11), 1, dims=(2, 3)), parent.images(2))


def test_the_numbers_of_names_and_classes_must_match() -> None:
    with pytest.raises(DatasetUnavailable, match="2 class names for 1 classes"):
        ArrayDataset("odd", ["a", "b"], [torch.zeros(1, 1, 4, 4, dtype=torch.uint8)])
