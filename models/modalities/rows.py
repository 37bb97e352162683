"""Rows of inputs that hold an image and a second modality, either of which may be missing.

A row is one vector of float32: the pixels of the prepared image, the numbers of the second modality, and two flags, 1
where the image, or the second modality, is present. So a sample of two modalities passes through tasks, inner loops,
folds and batches like any other input; only the net takes it apart.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.errors import InvalidTask

Present = Literal["both", "image", "second"]
"""Which modalities something has or concerns."""

FLAGS = 2
"""Numbers at the end of a row: whether the image, and whether the second modality, is present."""


def pack_rows(images: Tensor, vectors: Tensor | None, size: int) -> Tensor:
    """Join images and vectors into rows.

    Args:
        images: float32 (rows, channels, side, side).
        vectors: float32 (rows, size), with NaN throughout where a sample has none; None if no sample has one.
        size: numbers of the second modality.

    Returns:
        float32 (rows, channels * side * side + size + 2).

    Raises:
        InvalidTask: the vectors have another size.
    """
    given = images.new_full((len(images), size), torch.nan) if vectors is None else vectors
    if given.shape != (len(images), size):
        raise InvalidTask(
            f"{len(images)} images came with a second modality of shape {tuple(given.shape)}; the net takes "
            f"{size} numbers for each image"
        )
    present = ~given.isnan().all(1, keepdim=True)  # (rows, 1)
    flags = torch.cat([torch.ones_like(present), present], dim=1).to(images.dtype)
    return torch.cat([images.flatten(1), given.nan_to_num(), flags], dim=1)


def keep_only(rows: Tensor, size: int, present: Present) -> Tensor:
    """Copy rows without the modalities that are not named: their numbers and their flags become 0.

    Args:
        rows: from `pack_rows`.
        size: numbers of the second modality.
        present: what to keep.
    """
    kept = rows.clone()
    if present == "image":
        kept[:, -size - FLAGS : -FLAGS] = 0
        kept[:, -1] = 0
    elif present == "second":
        kept[:, : -size - FLAGS] = 0
        kept[:, -FLAGS] = 0
    return kept
