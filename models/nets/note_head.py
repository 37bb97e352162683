"""Notes beside a frozen backbone: a second closed-form head, whose scores are added to those of the images.

An image and a note are scored apart and their scores are summed, as naive Bayes does. So a missing note leaves exactly
the head of the images, and images alone give the same version as without this module. The notes' head are prototypes:
the mean vector of each class. Two numbers say how much it counts:

- At most `_LEVEL` of the images' head, compared by the score that a sample at the mean of its class gets.
- Less where the notes tell classes apart less: times the reliability of the class means, 1 - 1 / F, with the ratio F of
  the mean squares between and within the classes (ICC(1, k) of Shrout & Fleiss 1979, Psychological Bulletin 86). Notes
  that tell nothing have F near 1 and count for nothing. One note a class has no variance within, so it counts in full.

A note unlike those of the support counts no more than they do: where the means of the classes lie, it is no further
from the centre than the furthest of them.

Inputs have the row of a note (`models.modalities.rows`) behind the embedded image. The features are the note's centred
vector and a 1, both 0 where there is no note; the head's weight has columns for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import weight_names
from models.modalities.rows import FLAGS
from models.modalities.text import TEXT_SIZE
from models.task import Support

CENTRE = weight_names.NOTES_CENTRE
SPAN = weight_names.NOTES_SPAN

_LEVEL = 0.5
"""Chosen on the validation lines of `surface-notes`, where 0.25 to 1 differ by less than a point at ten shots."""

_LEAST = 1e-6
"""Lower bound of what is divided by, and of the lengths of directions that count."""


class NoteFeatures(nn.Module):
    """Features of the notes behind embedded images.

    Attributes:
        centre: (tasks, TEXT_SIZE), mean vector of the support's notes; None for a task without notes.
        span: (tasks, n_way, TEXT_SIZE), see `NoteHeads`; None for a task without notes.
    """

    centre: Tensor | None
    span: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", None)
        self.register_buffer("span", None)

    def forward(self, rows: Tensor) -> Tensor:
        """Compute features, (tasks * batch, TEXT_SIZE + 1); without a centre none, (tasks * batch, 0).

        Args:
            rows: (tasks * batch, TEXT_SIZE + FLAGS) from `pack_rows`; (tasks * batch, 0) where no image has a note.
        """
        if self.centre is None or self.span is None:
            return rows[:, :0]
        if not rows.shape[-1]:
            return rows.new_zeros(len(rows), TEXT_SIZE + 1)
        by_task = rows.view(len(self.centre), -1, TEXT_SIZE + FLAGS)
        return note_features(by_task, self.centre[:, None], self.span).flatten(0, 1)


def note_features(rows: Tensor, centre: Tensor, span: Tensor) -> Tensor:
    """Centred vectors within reach and whether there is a note: (..., TEXT_SIZE + FLAGS) -> (..., TEXT_SIZE + 1)."""
    vectors, _, present = torch.split(rows, [TEXT_SIZE, FLAGS - 1, 1], dim=-1)
    apart = vectors - centre
    within = 1 / (apart @ span.mT).norm(dim=-1, keepdim=True).clamp(min=1)
    return torch.cat([apart * within * present, present], dim=-1)


def joined(features: Tensor, rows: Tensor, centre: Tensor, span: Tensor) -> Tensor:
    """Features of the images of one task, (1, rows, features), and those of their notes behind them."""
    return torch.cat([features, note_features(rows, centre, span)[None]], dim=-1)


def has_notes(rows: Tensor) -> bool:
    """Whether any of the rows, (samples, TEXT_SIZE + FLAGS) or (samples, 0), has a note."""
    return bool(rows.shape[-1]) and bool(rows[:, -1].any())


class NoteHeads(NamedTuple):
    """Heads of the notes of several tasks.

    Attributes:
        columns: of the head's weight, (tasks, largest n_way, TEXT_SIZE + 1), 0 for a class without notes.
        centres: (tasks, TEXT_SIZE).
        spans: (tasks, largest n_way, TEXT_SIZE), orthogonal rows that span the means of the classes around the centre,
            or 0. The furthest note from the centre has length 1 along them.
        levels: (tasks,), the score of a note at the mean of its class, averaged over the classes.
    """

    columns: Tensor
    centres: Tensor
    spans: Tensor
    levels: Tensor


def note_heads(supports: Sequence[Support], rows: Sequence[Tensor], levels: Tensor) -> NoteHeads:
    """Build the heads of the notes of several tasks.

    Args:
        supports: the tasks. The views of a sample show the same note.
        rows: (rows, TEXT_SIZE + FLAGS) of each support's inputs.
        levels: (tasks,), the score at the mean of a class with the images' head.
    """
    made = [_note_head(*each) for each in zip(supports, rows, levels, strict=True)]
    ways = max(support.n_way for support in supports)
    padded = [
        NoteHeads(*(F.pad(each, (0, 0, 0, ways - len(each))) if each.ndim == 2 else each for each in own))
        for own in made
    ]
    return NoteHeads(*map(torch.stack, zip(*padded, strict=True)))


def _note_head(support: Support, rows: Tensor, level: Tensor) -> NoteHeads:
    """`note_heads` of one task, without the dimension of the tasks."""
    samples = rows[: len(support.sample_labels)]
    present = samples[:, -1] > 0
    vectors, labels = samples[present, :TEXT_SIZE], support.sample_labels[present]
    centre = vectors.sum(0) / max(1, len(vectors))
    member = F.one_hot(labels, support.n_way).to(vectors.dtype)  # (notes, n_way)
    counts = member.sum(0)  # (n_way,)
    means = member.T @ (vectors - centre) / counts.clamp(min=1)[:, None]  # (n_way, TEXT_SIZE)
    squares = means.square().sum(-1)  # (n_way,)
    within = (vectors - centre - means[labels]).square().sum()
    own = _LEVEL * level * _reliability(squares, within, counts)
    factor = own / (squares.sum() / (counts > 0).sum().clamp(min=1)).clamp(min=_LEAST)
    columns = factor * torch.cat([2 * means, -squares[:, None]], dim=-1)
    return NoteHeads(columns, centre, _span(means, vectors - centre), own)


def _span(means: Tensor, apart: Tensor) -> Tensor:
    """The span in `NoteHeads` of one task, from means (n_way, TEXT_SIZE) and centred notes (notes, TEXT_SIZE)."""
    _, lengths, directions = torch.linalg.svd(means, full_matrices=False)
    basis = directions * (lengths > _LEAST)[:, None]
    reach = (apart @ basis.T).norm(dim=-1).amax() if len(apart) else means.new_zeros(())
    span: Tensor = basis / reach.clamp(min=_LEAST)
    return span


def _reliability(squares: Tensor, within: Tensor, counts: Tensor) -> Tensor:
    """1 - 1 / F of class means with these squared distances to the centre and squares within all classes, 0 to 1."""
    classes = (counts > 0).sum()
    between = (counts * squares).sum() / (classes - 1).clamp(min=1)
    mean_within = within / (counts.sum() - classes).clamp(min=1)  # 0 with one note a class
    return ((between - mean_within) / between.clamp(min=_LEAST)).clamp(min=0)
