"""Few-shot tasks, whose shapes and labels are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.errors import InvalidTask

MAX_WAYS = 64

FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
"""Axes of (rows, channels, height, width) that each view of an image is flipped along. The last is a half turn."""


@dataclass(frozen=True)
class Support:
    """Labelled images that an inner loop learns from.

    Attributes:
        inputs: float32 (rows, ...), what the net takes: images (rows, channels, side, side), features of a frozen
            backbone (rows, features), or images with a second modality (`models.modalities.rows`). There is one row for
            each view of a sample: first all samples as they are, then all samples in the second view, and so on.
        labels: int64 (rows,), class indices from 0; every class has at least one sample.
        n_way: number of classes, 2 to 64.
        anchors: int64 indices of the rows that a prototype head starts from, at least one per class; None means all.
            Meta-training leaves samples out, so that features learn to bring unseen samples to their prototypes.
        views: rows per sample, such as an image and its mirror images.
        groups: int64 (samples,), equal for samples that show the same object; None means that all show different ones.

    Raises:
        InvalidTask: a shape, type or label is not as described.
    """

    inputs: Tensor
    labels: Tensor
    n_way: int
    anchors: Tensor | None = None
    views: int = 1
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        _check_inputs("support", self.inputs, self.labels)
        if self.views < 1 or len(self.labels) % self.views:
            raise InvalidTask(
                f"the support has {len(self.labels)} rows, which is no multiple of its {self.views} views"
            )
        if not 2 <= self.n_way <= MAX_WAYS:
            raise InvalidTask(f"the task has {self.n_way} classes; allowed: 2 to {MAX_WAYS}")
        present = torch.unique(self.labels).tolist()
        if present != list(range(self.n_way)):
            raise InvalidTask(
                f"support labels are {present}; each of the classes 0 to {self.n_way - 1} needs at least one sample"
            )

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def sample_labels(self) -> Tensor:
        """Label of each sample: int64 (samples,)."""
        return self.labels[: len(self) // self.views]

    @property
    def samples(self) -> Tensor:
        """The samples as they are, without their further views: float32 (samples, ...)."""
        return self.inputs[: len(self) // self.views]

    @property
    def by_view(self) -> Tensor:
        """The samples in every view: float32 (views, samples, ...)."""
        return self.inputs.view(self.views, -1, *self.inputs.shape[1:])

    @property
    def sample_groups(self) -> Tensor:
        """Which samples show the same object: int64 (samples,)."""
        samples = self.sample_labels
        return torch.arange(len(samples), device=samples.device) if self.groups is None else self.groups.to(samples)

    def without(self, held_out: Tensor) -> Support:
        """The support without some samples and their views; all remaining rows are anchors.

        Args:
            held_out: bool (samples,).
        """
        kept = ~held_out.to(self.inputs.device).repeat(self.views)
        groups = None if self.groups is None else self.groups[~held_out.to(self.groups.device)]
        return Support(self.inputs[kept], self.labels[kept], self.n_way, views=self.views, groups=groups)

    def to(self, device: torch.device) -> Support:
        """Return the support with its tensors on `device`."""
        anchors = None if self.anchors is None else self.anchors.to(device)
        groups = None if self.groups is None else self.groups.to(device)
        inputs, labels = self.inputs.to(device), self.labels.to(device)
        return replace(self, inputs=inputs, labels=labels, anchors=anchors, groups=groups)

    def with_flips(self) -> Support:
        """Return the support followed by its images flipped left-right, top-bottom, and both.

        A flipped image keeps its label, and is an anchor if its original is one. A support that already has several
        views, or whose inputs are features or have two modalities, is returned as it is.
        """
        if self.views > 1 or self.inputs.ndim != 4:
            return self
        rows = len(self)
        starts = torch.arange(0, len(FLIPS) * rows, rows, device=self.inputs.device)[:, None]
        anchors = None if self.anchors is None else (starts + self.anchors).flatten()
        inputs, labels = flipped(self.inputs), self.labels.repeat(len(FLIPS))
        return replace(self, inputs=inputs, labels=labels, anchors=anchors, views=len(FLIPS))

    def anchor_inputs(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of the anchors."""
        if self.anchors is None:
            return self.inputs, self.labels
        return self.inputs[self.anchors], self.labels[self.anchors]


@dataclass(frozen=True)
class Task:
    """Data of one episode: a support to adapt on and queries to score on.

    Attributes:
        support: labelled images to learn from.
        query_inputs: float32 (queries, ...), of the same shape as the support's inputs.
        query_labels: int64 (queries,), below `support.n_way`.
        class_names: one per class index.
    """

    support: Support
    query_inputs: Tensor
    query_labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_inputs("query", self.query_inputs, self.query_labels)
        if len(self.class_names) != self.support.n_way:
            raise InvalidTask(f"{len(self.class_names)} class names for {self.support.n_way} classes")
        if self.query_inputs.shape[1:] != self.support.inputs.shape[1:]:
            raise InvalidTask(
                f"query images are {tuple(self.query_inputs.shape[1:])}, "
                f"support images {tuple(self.support.inputs.shape[1:])}; both must be the same size"
            )
        if int(self.query_labels.max()) >= self.support.n_way:
            raise InvalidTask(
                f"a query label is {int(self.query_labels.max())}; the task has {self.support.n_way} classes"
            )

    def to(self, device: torch.device) -> Task:
        """Return the task with its tensors on `device`."""
        query, labels = self.query_inputs.to(device), self.query_labels.to(device)
        return replace(self, support=self.support.to(device), query_inputs=query, query_labels=labels)


def flipped(images: Tensor) -> Tensor:
    """Return images (rows, channels, height, width), then the same flipped left-right, top-bottom, and both."""
    return torch.cat([images.flip(axes) if axes else images for axes in FLIPS])


def _check_inputs(part: str, inputs: Tensor, labels: Tensor) -> None:
    if inputs.ndim not in (2, 4) or inputs.shape[0] == 0:
        raise InvalidTask(
            f"{part} inputs have shape {tuple(inputs.shape)}; need (samples, channels, side, side) or "
            "(samples, features)"
        )
    if inputs.dtype != torch.float32 or labels.dtype != torch.int64:
        raise InvalidTask(f"{part} is {inputs.dtype} with {labels.dtype} labels; need float32 with int64 labels")
    if labels.shape != (inputs.shape[0],):
        raise InvalidTask(f"{part} has {inputs.shape[0]} inputs but labels of shape {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise InvalidTask(f"{part} label {int(labels.min())} is negative; class indices start at 0")
