"""The second modality of a sample as a person or a machine gives it: a text, or numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.config import SECOND_SIZES, NetConfig, Second
from models.modalities.text import text_vector

Given = str | tuple[float, ...]
"""A text, or numbers."""


def kind_taken(config: NetConfig) -> Second:
    """What samples of a net may have beside the image: `second`; with a frozen backbone, notes."""
    return "text" if config.kind == "backbone" else config.second


def size_taken(config: NetConfig) -> int:
    """Numbers of what `kind_taken` names."""
    return SECOND_SIZES.get(kind_taken(config), config.second_size)


def takes(config: NetConfig, given: Given) -> bool:
    """Whether a net takes this as its second modality."""
    if isinstance(given, str):
        return kind_taken(config) == "text"
    return kind_taken(config) in ("vector", "strokes") and len(given) == size_taken(config)


def given_vectors(config: NetConfig, given: Sequence[Given | None]) -> Tensor:
    """The second modality as `pack_rows` expects it: float32 (samples, size).

    Args:
        config: of a net that takes a second modality.
        given: of each sample; None, or what the net does not take, is missing.
    """
    rows = torch.full((len(given), size_taken(config)), torch.nan)
    for row, one in zip(rows, given, strict=True):
        if one is not None and takes(config, one):
            row.copy_(text_vector(one) if isinstance(one, str) else torch.tensor(one))
    return rows
