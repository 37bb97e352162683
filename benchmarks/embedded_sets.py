"""Sets of labelled images as inputs of a net, computed once, and episodes drawn from them.

A frozen backbone sees every image once; all episodes and methods share its features. Several images may show one
object, such as crops of one circuit board. They form a group, which an episode never divides between support and
queries.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoint import Checkpoint
from models.data.archives import read_files
from models.data.class_dataset import ClassDataset
from models.errors import DatasetUnavailable
from models.images.preprocessing import decode, prepare_batch
from models.inference.embedding import OnnxEmbedder, TorchEmbedder, embed_images
from models.nets.backbone import BackboneNet
from models.task import FLIPS, Support

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
GROUPS_FILE: Final = "groups.csv"
GROUPED_BY_NAME: Final = frozenset({"bccd_crops"})
"""Sets whose file names are the name of the photograph, "_" and a number."""

Embed = Callable[[Sequence[Tensor]], Tensor]
"""Canonical images, uint8 (1 or 3, height, width) each, to inputs (images, views, ...)."""

_DECODED_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file.

    Attributes:
        label: name of its class.
        group: name of the object that it shows.
        content: the file.
    """

    label: str
    group: str
    content: bytes


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Image files of several classes, and how many exact duplicates were dropped."""

    name: str
    files: tuple[ImageFile, ...]
    dropped: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all files and labels."""
        content = hashlib.sha256()
        for file in self.files:
            content.update(f"{file.label}\0{hashlib.sha256(file.content).hexdigest()}\n".encode())
        return content.hexdigest()


@dataclass(frozen=True)
class EmbeddedSet:
    """Images as inputs of a net.

    Attributes:
        name: name of the set.
        inputs: float (images, views, ...), the image as it is first, then mirror images if there are several views.
        labels: int64 (images,), class indices.
        groups: int64 (images,), indices of the objects shown.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    groups: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of an episode: classes (fewer if the set has fewer), support images and maximum queries per class."""

    n_way: int
    n_shot: int
    n_query: int


@dataclass(frozen=True)
class Episode:
    """Rows of an `EmbeddedSet`.

    Attributes:
        support: int64 (n_way, n_shot).
        queries: int64 (queries,).
        query_labels: int64 (queries,), rows of `support`.
        others: int64 (images,), images of up to n_way other classes, none of the support's objects.
    """

    support: Tensor
    queries: Tensor
    query_labels: Tensor
    others: Tensor

    @property
    def labels(self) -> Tensor:
        """Labels of `support` flattened: int64 (n_way * n_shot,)."""
        n_way, n_shot = self.support.shape
        return torch.arange(n_way).repeat_interleave(n_shot)

    def accuracy(self, predicted: Tensor) -> float:
        """Mean over classes of the share of right predictions; `predicted` is int64 (queries,)."""
        right = (predicted == self.query_labels).double()
        totals = torch.zeros(len(self.support), 2, dtype=torch.float64)
        totals.index_add_(0, self.query_labels, torch.stack([right, torch.ones_like(right)], 1))
        return float((totals[:, 0] / totals[:, 1]).mean())


def read_set(location: Path, max_per_class: int, seed: int = 0) -> LabelledSet:
    """Read a folder or .zip of class folders without exact duplicates.

    Args:
        location: the folder or .zip. A file ``groups.csv`` in it names the object that each image shows (columns
            ``image`` and ``group``).
        max_per_class: of classes with more images, so many are drawn.
        seed: of these draws.

    Raises:
        DatasetUnavailable: the set cannot be read or has fewer than two classes.
    """
    generator = torch.Generator().manual_seed(seed)
    contents = dict(read_files(location))
    groups = _groups(location.stem, contents)
    seen: set[str] = set()
    classes: dict[str, list[str]] = {}
    images = [path for path in sorted(contents) if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    for path in images:
        digest = hashlib.sha256(contents[path]).hexdigest()
        if digest not in seen:
            seen.add(digest)
            classes.setdefault(PurePosixPath(path).parent.name, []).append(path)
    if len(classes) < 2:
        raise DatasetUnavailable(f"{location} has {len(classes)} class folders with images; at least 2 are needed")
    files = []
    for label, paths in sorted(classes.items()):
        drawn = sorted(torch.randperm(len(paths), generator=generator)[:max_per_class].tolist())
        files += [ImageFile(label, groups(paths[index]), contents[paths[index]]) for index in drawn]
    return LabelledSet(location.stem, tuple(files), len(images) - len(seen))


def _groups(name: str, contents: dict[str, bytes]) -> Callable[[str], str]:
    """Function from the path of an image to the name of the object that it shows."""
    tables = [content for path, content in contents.items() if PurePosixPath(path).name == GROUPS_FILE]
    if tables:
        rows = csv.DictReader(io.StringIO(tables[0].decode()))
        table = {row["image"]: row["group"] for row in rows}
        return lambda path: table[PurePosixPath(path).name]
    if name in GROUPED_BY_NAME:
        return lambda path: PurePosixPath(path).stem.rpartition("_")[0]
    return lambda path: path


def embed_for(files: LabelledSet, checkpoint: Checkpoint, cache: Path | None = None) -> EmbeddedSet:
    """Compute the inputs of a checkpoint's net.

    Args:
        files: the images.
        checkpoint: its net defines the input.
        cache: folder that keeps the features of a frozen backbone between runs.
    """
    embed, net = input_function(checkpoint), checkpoint.build_net()
    if cache is None or not isinstance(net, BackboneNet):
        return embed_files(files, embed)
    name = f"{files.name}-{files.digest[:12]}-{checkpoint.digest[:12]}-{net.embedding_count}.safetensors"
    return embed_files(files, embed, cache / name)


def input_function(checkpoint: Checkpoint) -> Embed:
    """How a checkpoint's net sees images.

    A net with a frozen backbone gets the features of four mirror views, rounded to float16. Other nets get the images,
    which the inner loop mirrors where the recipe says so.
    """
    net, image = checkpoint.build_net(), checkpoint.net_config.image
    if not isinstance(net, BackboneNet):
        return lambda images: prepare_batch(images, image)[:, None]
    graph = checkpoint.onnx_graph
    embedder = TorchEmbedder(net, torch.device("cpu")) if graph is None else OnnxEmbedder(graph, net)

    def embed(images: Sequence[Tensor]) -> Tensor:
        rows = embed_images(embedder, images, image, views=FLIPS)
        return rows.view(len(FLIPS), len(images), -1).transpose(0, 1).half()

    return embed


def embed_files(files: LabelledSet, embed: Embed, cached: Path | None = None) -> EmbeddedSet:
    """Decode and embed images.

    Args:
        files: the images.
        embed: computes the inputs.
        cached: file to read the inputs from if it exists, or else to write them to.
    """
    if cached is not None and cached.is_file():
        return EmbeddedSet(files.name, load_file(cached)["inputs"], *_labels_and_groups(files))
    starts = range(0, len(files.files), _DECODED_AT_ONCE)
    parts = [
        embed([decode(file.content) for file in files.files[start : start + _DECODED_AT_ONCE]])
        for start in track(starts, files.name, console=Console(stderr=True))
    ]
    inputs = torch.cat(parts)
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        save_file({"inputs": inputs}, cached)
    return EmbeddedSet(files.name, inputs, *_labels_and_groups(files))


def embed_dataset(dataset: ClassDataset, checkpoint: Checkpoint, max_classes: int) -> EmbeddedSet:
    """The first classes of a dataset as inputs of a checkpoint's net; every image is an object of its own."""
    embed, classes = input_function(checkpoint), range(min(max_classes, len(dataset)))
    parts = [embed(list(dataset.images(index))) for index in track(classes, dataset.name, console=Console(stderr=True))]
    labels = torch.repeat_interleave(torch.tensor([len(part) for part in parts]))
    return EmbeddedSet(dataset.name, torch.cat(parts), labels, torch.arange(len(labels)))


def _labels_and_groups(files: LabelledSet) -> tuple[Tensor, Tensor]:
    """Class and object of each image, numbered by sorted name: int64 (images,) each."""
    names = np.array([(file.label, file.group) for file in files.files])
    labels, groups = (torch.from_numpy(np.unique(column, return_inverse=True)[1]) for column in names.T)
    return labels, groups


def draw_episode(data: EmbeddedSet, shape: Shape, seed: int) -> Episode:
    """Sample an episode; a seed gives the same rows with every net.

    Support and queries share no object. A class whose remaining objects are few gets fewer queries.

    Raises:
        DatasetUnavailable: fewer than two classes have enough images.
    """
    generator = torch.Generator().manual_seed(seed)
    members = [(data.labels == label).nonzero().flatten() for label in range(data.classes)]
    usable = [rows for rows in members if len(rows) > shape.n_shot]
    if len(usable) < 2:
        raise DatasetUnavailable(f"{data.name} has {len(usable)} classes with more than {shape.n_shot} images; need 2")
    order = torch.randperm(len(usable), generator=generator).tolist()
    shuffled = [usable[index][torch.randperm(len(usable[index]), generator=generator)] for index in order]
    chosen, strangers = shuffled[: shape.n_way], shuffled[shape.n_way : 2 * shape.n_way]
    support = torch.stack([rows[: shape.n_shot] for rows in chosen])
    taken = data.groups[support.flatten()]

    def free(rows: Tensor) -> Tensor:
        return rows[~torch.isin(data.groups[rows], taken)][: shape.n_query]

    queries = [free(rows[shape.n_shot :]) for rows in chosen]
    if not all(map(len, queries)):
        raise DatasetUnavailable(f"{data.name}: a class has no query that shares no object with the support")
    return Episode(
        support=support,
        queries=torch.cat(queries),
        query_labels=torch.repeat_interleave(torch.tensor([len(rows) for rows in queries])),
        others=torch.cat([free(rows) for rows in strangers]) if strangers else torch.empty(0, dtype=torch.int64),
    )


def support_of(data: EmbeddedSet, episode: Episode, labels: Tensor | None = None) -> Support:
    """The support of an episode for the inner loop; `labels` replaces the true ones."""
    rows = data.inputs[episode.support.flatten()].float()  # (samples, views, ...)
    views = rows.shape[1]
    sample_labels = episode.labels if labels is None else labels
    inputs = rows.transpose(0, 1).flatten(0, 1)  # all samples as they are, then all in the next view
    return Support(inputs, sample_labels.repeat(views), len(episode.support), views=views)


def queries_of(data: EmbeddedSet, rows: Tensor) -> Tensor:
    """Inputs of images as they are, without mirror views: float32 (rows, ...)."""
    return data.inputs[rows, 0].float()


def turned_of(data: EmbeddedSet, rows: Tensor) -> Tensor | None:
    """Inputs of the images turned by 180 degrees: float32 (rows, ...); None where the set has one view."""
    return data.inputs[rows, -1].float() if data.inputs.shape[1] > 1 else None
