"""Few-shot tasks, whose shapes and labels are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.errors import InvalidTask

MAX_WAYS = 64


@dataclass(frozen=True)
class Support:
    """Labelled images that an inner loop learns from.

    Attributes:
        images: float32 (samples, channels, side, side), preprocessed.
        labels: int64 (samples,), class indices from 0; every class has at least one sample.
        n_way: number of classes, 2 to 64.
        anchors: int64 indices of the samples that a prototype head starts from, at least one per class; None means all.
            Meta-training leaves samples out, so that features learn to bring unseen samples to their prototypes.

    Raises:
        InvalidTask: a shape, type or label is not as described.
    """

    images: Tensor
    labels: Tensor
    n_way: int
    anchors: Tensor | None = None

    def __post_init__(self) -> None:
        _check_images("support", self.images, self.labels)
        if not 2 <= self.n_way <= MAX_WAYS:
            raise InvalidTask(f"the task has {self.n_way} classes; allowed: 2 to {MAX_WAYS}")
        present = torch.unique(self.labels).tolist()
        if present != list(range(self.n_way)):
            raise InvalidTask(
                f"support labels are {present}; each of the classes 0 to {self.n_way - 1} needs at least one sample"
            )

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> Support:
        """Return the support with its tensors on `device`."""
        anchors = None if self.anchors is None else self.anchors.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), anchors=anchors)

    def with_flips(self) -> Support:
        """Return the support followed by its images flipped left-right, top-bottom, and both.

        The result has four times the samples. A flipped image keeps its label, and is an anchor if its original is one.
        """
        images, samples = self.images, len(self)
        views = [images, images.flip(3), images.flip(2), images.flip(2, 3)]  # (samples, channels, side, side) each
        starts = torch.arange(0, 4 * samples, samples, device=images.device)[:, None]
        anchors = None if self.anchors is None else (starts + self.anchors).flatten()
        return replace(self, images=torch.cat(views), labels=self.labels.repeat(4), anchors=anchors)

    def anchor_images(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of the anchors."""
        if self.anchors is None:
            return self.images, self.labels
        return self.images[self.anchors], self.labels[self.anchors]


@dataclass(frozen=True)
class Task:
    """Data of one episode: a support to adapt on and queries to score on.

    Attributes:
        support: labelled images to learn from.
        query_images: float32 (queries, channels, side, side).
        query_labels: int64 (queries,), below `support.n_way`.
        class_names: one per class index.
    """

    support: Support
    query_images: Tensor
    query_labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_images("query", self.query_images, self.query_labels)
        if len(self.class_names) != self.support.n_way:
            raise InvalidTask(f"{len(self.class_names)} class names for {self.support.n_way} classes")
        if self.query_images.shape[1:] != self.support.images.shape[1:]:
            raise InvalidTask(
                f"query images are {tuple(self.query_images.shape[1:])}, "
                f"support images {tuple(self.support.images.shape[1:])}; both must be the same size"
            )
        if int(self.query_labels.max()) >= self.support.n_way:
            raise InvalidTask(
                f"a query label is {int(self.query_labels.max())}; the task has {self.support.n_way} classes"
            )

    def to(self, device: torch.device) -> Task:
        """Return the task with its tensors on `device`."""
        query, labels = self.query_images.to(device), self.query_labels.to(device)
        return replace(self, support=self.support.to(device), query_images=query, query_labels=labels)


def _check_images(part: str, images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.shape[0] == 0:
        raise InvalidTask(f"{part} images have shape {tuple(images.shape)}; need (samples, channels, side, side)")
    if images.dtype != torch.float32 or labels.dtype != torch.int64:
        raise InvalidTask(f"{part} is {images.dtype} with {labels.dtype} labels; need float32 with int64 labels")
    if labels.shape != (images.shape[0],):
        raise InvalidTask(f"{part} has {images.shape[0]} images but labels of shape {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise InvalidTask(f"{part} label {int(labels.min())} is negative; class indices start at 0")
