"""Images, checkpoints and versions for the benchmarks."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measuring import CPU
from models.adaptation.adapt import Adapted
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.archives import read_files
from models.data.synthetic import Textures
from models.errors import DatasetUnavailable
from models.images.preprocessing import decode, prepare
from models.inference.embedding import Embedder, embedder_for
from models.inference.predict import BatchPredictor, FeaturePredictor, OnnxPredictor, fold_calibrated
from models.nets import Net, build, heads
from models.weights import Weights
from service.client import LabelledFile
from service.runtime.loaded_checkpoint import LoadedCheckpoint

N_WAY, N_SHOT = 5, 10
DEFAULT_MODEL: Final = "efficientnet-lite0"
STEEL: Final = "x_sdd.zip"
"""File name of X-SDD: seven classes of defects of hot-rolled steel strip, 128 px."""

_GENERATED_IMAGES: Final = 30
_SIDE: Final = 128
_SEED: Final = 3
"""Seed of the generated surfaces; meta-training uses 0, its evaluation 1."""


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files by class.

    Attributes:
        name: description.
        classes: class name -> (file name, content) of each image.
    """

    name: str
    classes: Mapping[str, Sequence[tuple[str, bytes]]]


@dataclass(frozen=True, slots=True)
class Draw:
    """A random task.

    Attributes:
        support: labelled images to adapt to.
        queries: class name -> other images of that class.
    """

    support: tuple[LabelledFile, ...]
    queries: Mapping[str, tuple[bytes, ...]]

    def query_images(self) -> list[bytes]:
        """The queries of all classes."""
        return [content for contents in self.queries.values() for content in contents]


def steel_or_generated(data_root: Path | None, side: int = _SIDE) -> ImageFiles:
    """X-SDD if a data root is given, otherwise five classes of generated surfaces, in colour if they are larger."""
    if data_root is not None:
        return steel(data_root)
    return generated(N_WAY, _GENERATED_IMAGES, side, channels=1 if side <= _SIDE else 3)


def steel(data_root: Path) -> ImageFiles:
    """X-SDD without exact duplicates.

    Raises:
        DatasetUnavailable: the archive is missing or unreadable.
    """
    classes: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
    seen: set[str] = set()
    files = list(read_files(data_root / STEEL))
    for path, content in files:
        digest = hashlib.sha256(content).hexdigest()
        if digest not in seen:
            seen.add(digest)
            classes[Path(path).parent.name].append((Path(path).name, content))
    dropped = len(files) - len(seen)
    name = f"{STEEL}: {len(seen)} images in {len(classes)} classes, {dropped} exact duplicates dropped"
    return ImageFiles(name, classes)


def generated(n_way: int, images_per_class: int, side: int = _SIDE, channels: int = 1) -> ImageFiles:
    """Classes of one procedural product line, as PNG files.

    Raises:
        DatasetUnavailable: a product line has fewer classes.
    """
    textures = Textures(side, channels=channels, seed=_SEED, lines=1, images_per_class=images_per_class)
    classes = {
        f"class-{index}": [
            (f"{index}-{number:03}.png", png(pixels.numpy())) for number, pixels in enumerate(textures.images(index))
        ]
        for index in range(n_way)
    }
    return ImageFiles(f"{n_way} generated classes of {images_per_class} images of {side} px", classes)


def draw(images: ImageFiles, generator: np.random.Generator, n_way: int, n_shot: int, max_queries: int = 0) -> Draw:
    """Sample classes, and from each class support and queries.

    Args:
        images: images to choose from.
        generator: source of randomness.
        n_way: number of classes.
        n_shot: support images per class.
        max_queries: maximum number of queries per class; 0 means all that remain.

    Raises:
        DatasetUnavailable: there are too few classes, or a class has no image left for a query.
    """
    names = sorted(images.classes)
    if n_way > len(names) or min(len(images.classes[name]) for name in names) <= n_shot:
        raise DatasetUnavailable(
            f"{images.name}: {n_way} classes with {n_shot} images and a query each are needed; "
            f"there are {len(names)} classes, the smallest has {min(map(len, images.classes.values()))} images"
        )
    support: list[LabelledFile] = []
    queries: dict[str, tuple[bytes, ...]] = {}
    for name in sorted(generator.choice(names, n_way, replace=False).tolist()):
        files = [images.classes[name][index] for index in generator.permutation(len(images.classes[name]))]
        support += [LabelledFile(name, file_name, content) for file_name, content in files[:n_shot]]
        rest = files[n_shot : n_shot + max_queries if max_queries else None]
        queries[name] = tuple(content for _, content in rest)
    return Draw(tuple(support), queries)


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (1 or 3, height, width) as a PNG file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(encoded, format="PNG")
    return encoded.getvalue()


def untrained(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The checkpoint with initial weights drawn from `seed`, including a linear head, and with moments of zero."""
    net = build(checkpoint.net_config, seed)
    weights: Weights = net.start()
    if heads.WEIGHT in checkpoint.weights:
        n_way = checkpoint.weights[heads.WEIGHT].shape[0]
        weights = {**weights, **heads.linear_head(net.feature_count, n_way, torch.Generator().manual_seed(seed))}
    moments = checkpoint.moments and replace(
        checkpoint.moments, second={name: tensor * 0 for name, tensor in checkpoint.moments.second.items()}, steps=0
    )
    return Checkpoint("random", checkpoint.net_config, checkpoint.recipe, weights, moments, {"data": "none"})


@dataclass(frozen=True, slots=True)
class AdaptedCheckpoint:
    """A checkpoint, a version adapted from it, and images that are not in the version's support.

    Attributes:
        checkpoint: the checkpoint.
        net: its net.
        adapted: the version.
        images: float32 (count, channels, side, side), preprocessed.
        embedder: runs a frozen backbone; None for other nets.
    """

    checkpoint: Checkpoint
    net: Net
    adapted: Adapted
    images: Tensor
    embedder: Embedder | None

    def inputs(self, images: Tensor) -> Tensor:
        """What the net takes: the features of a frozen backbone, or the images themselves."""
        return images if self.embedder is None else self.embedder.embed(images)

    def predictor(self, threads: int = 1) -> BatchPredictor | None:
        """The service's predictor on the CPU; None if there is no ONNX graph for it."""
        if self.embedder is not None:
            return FeaturePredictor()
        graph = self.checkpoint.onnx_graph
        return None if graph is None else OnnxPredictor(graph, self.net.config, threads)

    def more_versions(self, count: int, seed: int = 0) -> Iterator[Adapted]:
        """Further versions: each permutes the numbers of every tensor's difference from the checkpoint.

        Size and prediction cost of a version do not depend on its accuracy, so that it need not be adapted.
        """
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            weights = {name: self._permuted(name, tensor, generator) for name, tensor in self.adapted.weights.items()}
            means = None if self.adapted.means is None else _permute(self.adapted.means, generator)
            yield Adapted(weights, self.adapted.statistics, (), self.adapted.support_accuracy, means)

    def _permuted(self, name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
        start = self.checkpoint.weights.get(name)
        return _permute(tensor, generator) if start is None else start + _permute(tensor - start, generator)


def adapt_checkpoint(checkpoint: str, images: ImageFiles, seed: int, max_queries: int = 20) -> AdaptedCheckpoint:
    """Adapt a checkpoint to 5 classes x 10 images; keep up to `max_queries` other images per class."""
    learner = LoadedCheckpoint(load_checkpoint(checkpoint), CPU)
    loaded = learner.checkpoint
    net, spec = loaded.build_net().eval(), loaded.net_config.image
    task = draw(images, np.random.default_rng(seed), N_WAY, N_SHOT, max_queries)
    classes = sorted(task.queries)
    labels = [classes.index(file.label) for file in task.support]
    support = learner.support([decode(file.content) for file in task.support], labels, N_WAY)
    adapted = learner.adapt(support, loaded.recipe, seed)
    learner.close()
    queries = prepare([decode(image) for image in task.query_images()], spec)
    return AdaptedCheckpoint(loaded, net, adapted, queries, embedder_for(loaded, net, CPU))


def folded(adapted: Adapted) -> Weights:
    """The weights of a version as prediction uses them, with its statistics folded in."""
    return fold_calibrated(adapted.kept(), adapted.statistics)


def _permute(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)
