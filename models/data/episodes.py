"""Samples episodes (support and query sets) from a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.class_dataset import ClassDataset
from models.errors import InvalidTask
from models.images.preprocessing import ImageConfig, normalise
from models.modalities.rows import Present, keep_only, pack_rows
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


@dataclass(frozen=True)
class EpisodeModalities:
    """The modalities of episodes for a net that takes two (`models.nets.multimodal`).

    Attributes:
        second_size: numbers of the second modality; 0 for a net that takes images alone.
        support: which modalities the support has.
        query: which modalities the queries have.
        dropout: share of the episodes whose support lacks one modality; see `MetaTrainingConfig.modality_dropout`.
    """

    second_size: int = 0
    support: Present = "both"
    query: Present = "both"
    dropout: float = 0.0


_IMAGES_ALONE = EpisodeModalities()


class EpisodeSampler:
    """Samples episodes of one shape; the seed determines the episode.

    Args:
        dataset: the classes.
        shape: size of the episodes.
        config: input format of the net.
        within_line: share of episodes whose classes all come from one product line, of those with at least n_way
            classes.
        modalities: which modalities the inputs have.

    Raises:
        InvalidTask: the dataset has fewer classes than n_way.
    """

    def __init__(
        self,
        dataset: ClassDataset,
        shape: EpisodeShape,
        config: ImageConfig,
        within_line: float = 0.0,
        modalities: EpisodeModalities = _IMAGES_ALONE,
    ) -> None:
        if len(dataset) < shape.n_way:
            raise InvalidTask(f"{dataset.name} has {len(dataset)} classes; an episode needs {shape.n_way}")
        self._dataset = dataset
        self._shape = shape
        self._config = config
        self._within_line = within_line
        self._modalities = modalities
        self._lines = _lines(dataset, shape.n_way) if within_line > 0 else []

    def support(self, seed: int) -> Support:
        """Sample a support set, float32 (n_way * n_shot, ...), class by class."""
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
        drawn = [(index, self._draw(index, per_class, generator)) for index in chosen]
        rows = self._inputs(drawn)
        inputs = rows.view(shape.n_way, per_class, *rows.shape[1:])  # (n_way, count, ...)
        labels = torch.arange(shape.n_way)
        support = Support(
            self._with_modalities(inputs[:, : shape.n_shot].flatten(0, 1), generator),
            labels.repeat_interleave(shape.n_shot),
            shape.n_way,
            self._anchors(),
        )
        rest = (inputs[:, shape.n_shot :] if with_query else inputs[:, :1]).flatten(0, 1)
        second_size = self._modalities.second_size
        return Task(
            support=support,
            query_inputs=keep_only(rest, second_size, self._modalities.query) if second_size else rest,
            query_labels=labels.repeat_interleave(len(rest) // shape.n_way),
            class_names=tuple(self._dataset.class_names[index] for index in chosen),
        )

    def _inputs(self, drawn: Sequence[tuple[int, Tensor]]) -> Tensor:
        """The inputs of all rows, class by class, for classes and the indices of their images: (rows, ...)."""
        images = torch.cat([self._dataset.images(index)[rows] for index, rows in drawn])
        prepared, size = normalise(images, self._config), self._modalities.second_size
        if not size:
            return prepared
        given = [(self._dataset.vectors(index), rows) for index, rows in drawn]
        vectors = [
            torch.full((len(rows), size), torch.nan) if vectors is None else vectors[rows] for vectors, rows in given
        ]
        return pack_rows(prepared, torch.cat(vectors), size)

    def _with_modalities(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The rows of a support, class by class, with the modalities that it has."""
        size, dropout = self._modalities.second_size, self._modalities.dropout
        if not size:
            return rows
        if self._modalities.support != "both":
            return keep_only(rows, size, self._modalities.support)  # nothing else can be dropped
        if not dropout or float(torch.rand((), generator=generator)) >= dropout:
            return rows
        drop_second, everywhere = (torch.rand(2, generator=generator) < 0.5).tolist()
        if not drop_second and not bool(rows[:, -1].all()):  # nothing would be left of some rows
            return rows
        dropped = keep_only(rows, size, "image" if drop_second else "second")
        anchors = self._anchors()
        if not everywhere and anchors is not None:
            dropped[anchors] = rows[anchors]
        return dropped

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
        """Indices of images of one class: int64 (count,)."""
        images = len(self._dataset.images(class_index))
        if images < count:
            raise InvalidTask(
                f"class {self._dataset.class_names[class_index]!r} of {self._dataset.name} has {images} images; "
                f"this episode needs {count} per class"
            )
        return torch.randperm(images, generator=generator)[:count]


def _lines(dataset: ClassDataset, n_way: int) -> list[list[int]]:
    """Classes of each product line with at least n_way classes."""
    lines: dict[int, list[int]] = {}
    for index in range(len(dataset)):
        lines.setdefault(dataset.product_line(index), []).append(index)
    return [members for members in lines.values() if len(members) >= n_way]
