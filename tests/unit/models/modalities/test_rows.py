"""Rows of inputs with an image and a second modality."""

from __future__ import annotations

import pytest
import torch

from models.errors import InvalidTask
from models.modalities.rows import FLAGS, keep_only, pack_rows

IMAGES = torch.arange(24.0).view(3, 2, 2, 2)
VECTORS = torch.tensor([[1.0, 2.0], [torch.nan, torch.nan], [0.0, 0.0]])


def test_a_row_is_the_pixels_the_numbers_and_two_flags() -> None:
    rows = pack_rows(IMAGES, VECTORS, 2)
    assert rows.shape == (3, 8 + 2 + FLAGS)
    assert torch.equal(rows[:, :8], IMAGES.flatten(1))
    assert rows[0, 8:].tolist() == [1, 2, 1, 1]


def test_a_vector_of_nan_is_missing_and_one_of_zeros_is_not() -> None:
    rows = pack_rows(IMAGES, VECTORS, 2)
    assert rows[1, 8:].tolist() == [0, 0, 1, 0]
    assert rows[2, 8:].tolist() == [0, 0, 1, 1]


def test_without_vectors_no_row_has_the_second_modality() -> None:
    assert torch.equal(pack_rows(IMAGES, None, 2)[:, 8:], torch.tensor([[0.0, 0, 1, 0]] * 3))


def test_vectors_of_another_size_are_an_error() -> None:
    with pytest.raises(InvalidTask, match="takes 3 numbers"):
        pack_rows(IMAGES, VECTORS, 3)


def test_keeping_one_modality_clears_the_numbers_and_the_flag_of_the_other() -> None:
    rows = pack_rows(IMAGES, VECTORS, 2)
    alone = keep_only(rows, 2, "image")
    assert torch.equal(alone, pack_rows(IMAGES, None, 2))
    second = keep_only(rows, 2, "second")
    assert not second[:, :8].any()
    assert second[0, 8:].tolist() == [1, 2, 0, 1]
    assert torch.equal(keep_only(rows, 2, "both"), rows)
    assert rows[0, 8:].tolist() == [1, 2, 1, 1]  # the argument is not changed
