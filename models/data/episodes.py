"""Samples episodes (support and query sets) from a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.class_dataset import ClassDataset
from models.errors import InvalidTask
from models.images.preprocessing import ImageConfig, normalise
from models.task import Support, Task


@dataclass(frozen=True)
class EpisodeShape:
    """Size of an episode.

    Attributes:
        n_way: number of classes.
        n_shot: support images per class.
        n_query: query images per class.
        anchor_shots: number of support images per class that a prototype head starts from; 0 means all.
    """

    n_way: int
    n_shot: int
    n_query: int = 0
    anchor_shots: int = 0


class EpisodeSampler:
    """Samples episodes of one shape; the seed determines the episode.

    Args:
        dataset: the classes.
        shape: size of the episodes.
        config: input format of the net.
        within_line: share of episodes whose classes all come from one product line, of those with at least n_way
            classes.

    Raises:
        InvalidTask: the dataset has fewer classes than n_way.
    """

    def __init__(
        self,
        dataset: ClassDataset,
        shape: EpisodeShape,
        config: ImageConfig,
        within_line: float = 0.0,
    ) -> None:
        if len(dataset) < shape.n_way:
            raise InvalidTask(f"{dataset.name} has {len(dataset)} classes; an episode needs {shape.n_way}")
        self._dataset = dataset
        self._shape = shape
        self._config = config
        self._within_line = within_line
        self._lines = _lines(dataset, shape.n_way) if within_line > 0 else []

    def support(self, seed: int) -> Support:
        """Sample a support set, float32 (n_way * n_shot, channels, side, side), class by class."""
        return self.task(seed, with_query=False).support

    def task(self, seed: int, *, with_query: bool = True) -> Task:
        """Sample an episode whose support and query share no image.

        Raises:
            InvalidTask: a sampled class has too few images.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = self._shape
        per_class = shape.n_shot + (shape.n_query if with_query else 0)
        chosen = self._choose_classes(generator)
        drawn = torch.stack([self._draw(index, per_class, generator) for index in chosen])  # (n_way, count, c, s, s)
        images = normalise(drawn.flatten(0, 1), self._config).view(drawn.shape)
        labels = torch.arange(shape.n_way)
        support = Support(
            images[:, : shape.n_shot].flatten(0, 1),
            labels.repeat_interleave(shape.n_shot),
            shape.n_way,
            self._anchors(),
        )
        rest = images[:, shape.n_shot :] if with_query else images[:, :1]
        return Task(
            support=support,
            query_inputs=rest.flatten(0, 1),
            query_labels=labels.repeat_interleave(rest.shape[1]),
            class_names=tuple(self._dataset.class_names[index] for index in chosen),
        )

    def _anchors(self) -> Tensor | None:
        if self._shape.anchor_shots == 0:
            return None
        return (
            torch.arange(self._shape.n_way * self._shape.n_shot)
            .view(self._shape.n_way, -1)[:, : self._shape.anchor_shots]
            .flatten()
        )

    def _choose_classes(self, generator: torch.Generator) -> list[int]:
        pool: Sequence[int] = range(len(self._dataset))
        if self._lines and float(torch.rand((), generator=generator)) < self._within_line:
            pool = self._lines[int(torch.randint(len(self._lines), (), generator=generator))]
        chosen = torch.randperm(len(pool), generator=generator)[: self._shape.n_way]
        return [pool[int(index)] for index in chosen]

    def _draw(self, class_index: int, count: int, generator: torch.Generator) -> Tensor:
        images = self._dataset.images(class_index)
        if len(images) < count:
            raise InvalidTask(
                f"class {self._dataset.class_names[class_index]!r} of {self._dataset.name} has {len(images)} images; "
                f"this episode needs {count} per class"
            )
        return images[torch.randperm(len(images), generator=generator)[:count]]


def _lines(dataset: ClassDataset, n_way: int) -> list[list[int]]:
    """Classes of each product line with at least n_way classes."""
    lines: dict[int, list[int]] = {}
    for index in range(len(dataset)):
        lines.setdefault(dataset.product_line(index), []).append(index)
    return [members for members in lines.values() if len(members) >= n_way]
