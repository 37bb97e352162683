"""Episodes out of a data set: which classes, which images, what is support and what is query. Draws, nothing else."""

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
    """How large an episode is.

    Attributes:
        n_way: classes.
        n_shot: support images a class.
        n_query: query images a class.
        anchor_shots: the first so many of a class's support images are its head's anchors; 0 means all.
    """

    n_way: int
    n_shot: int
    n_query: int = 0
    anchor_shots: int = 0


class EpisodeSampler:
    """Draws episodes of one shape from a data set; every draw is a function of its seed alone.

    Args:
        classes: the data set; classes with fewer than n_shot + n_query images are left out.
        shape: of every episode.
        spec: how the net sees images.
        within_line: share of episodes whose classes all come from one product line; lines with fewer than n_way
            classes are not used for it.

    Raises:
        InvalidTask: fewer usable classes than n_way.
    """

    def __init__(
        self,
        classes: ClassDataset,
        shape: EpisodeShape,
        spec: ImageConfig,
        within_line: float = 0.0,
    ) -> None:
        if len(classes) < shape.n_way:
            raise InvalidTask(f"{classes.name} has {len(classes)} classes; an episode needs {shape.n_way}")
        self._classes = classes
        self._shape = shape
        self._spec = spec
        self._within_line = within_line
        self._lines = _lines(classes, shape.n_way) if within_line > 0 else []

    def support(self, seed: int) -> Support:
        """Draw the support alone, float32 (n_way * n_shot, channels, side, side), class by class."""
        return self.task(seed, with_query=False).support

    def task(self, seed: int, *, with_query: bool = True) -> Task:
        """Draw an episode; support and query never share an image.

        Raises:
            InvalidTask: a drawn class has too few images.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = self._shape
        wanted = shape.n_shot + (shape.n_query if with_query else 0)
        chosen = self._choose_classes(generator)
        drawn = torch.stack([self._draw(index, wanted, generator) for index in chosen])  # (n_way, wanted, c, s, s)
        images = normalise(drawn.flatten(0, 1), self._spec).view(drawn.shape)
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
            query_images=rest.flatten(0, 1),
            query_labels=labels.repeat_interleave(rest.shape[1]),
            class_names=tuple(self._classes.class_names[index] for index in chosen),
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
        pool: Sequence[int] = range(len(self._classes))
        if self._lines and float(torch.rand((), generator=generator)) < self._within_line:
            pool = self._lines[int(torch.randint(len(self._lines), (), generator=generator))]
        places = torch.randperm(len(pool), generator=generator)[: self._shape.n_way]
        return [pool[int(place)] for place in places]

    def _draw(self, class_index: int, wanted: int, generator: torch.Generator) -> Tensor:
        images = self._classes.images(class_index)
        if len(images) < wanted:
            raise InvalidTask(
                f"class {self._classes.class_names[class_index]!r} of {self._classes.name} has {len(images)} images; "
                f"this episode needs {wanted} a class"
            )
        return images[torch.randperm(len(images), generator=generator)[:wanted]]


def _lines(classes: ClassDataset, n_way: int) -> list[list[int]]:
    """The classes of each product line that has enough of them."""
    lines: dict[int, list[int]] = {}
    for index in range(len(classes)):
        lines.setdefault(classes.product_line(index), []).append(index)
    return [members for members in lines.values() if len(members) >= n_way]
