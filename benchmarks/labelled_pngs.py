"""Image files by class: steel defects if available, otherwise generated surfaces."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from models.data.archives import read_files
from models.data.synthetic import Textures
from models.errors import DatasetUnavailable
from service.client import LabelledFile

STEEL: Final = "x_sdd.zip"
"""X-SDD, hot-rolled steel strip defects: seven classes, 128 px; a file name below the data root."""

_SIDE: Final = 128
_SEED: Final = 3
"""Of the generated surfaces; another than those of meta-training (0) and its evaluation (1)."""


@dataclass(frozen=True, slots=True)
class LabelledPngs:
    """Classes of image files.

    Attributes:
        name: what they are, in words.
        classes: class name -> (file name, content) of each image.
    """

    name: str
    classes: Mapping[str, Sequence[tuple[str, bytes]]]


@dataclass(frozen=True, slots=True)
class Draw:
    """A task: labelled images to adapt on, and queries.

    Attributes:
        support: labelled images.
        queries: class name -> images that are not in the support.
    """

    support: tuple[LabelledFile, ...]
    queries: Mapping[str, tuple[bytes, ...]]


def steel_or_generated(data_root: Path | None, n_way: int, images_a_class: int) -> LabelledPngs:
    """Steel defects if a data root is given, otherwise generated surfaces."""
    return generated(n_way, images_a_class) if data_root is None else steel(data_root)


def steel(data_root: Path) -> LabelledPngs:
    """The steel defects without their exact duplicates.

    Raises:
        DatasetUnavailable: the file is missing.
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
    return LabelledPngs(name, classes)


def generated(n_way: int, images_a_class: int) -> LabelledPngs:
    """Classes of one procedural product line, grey, as PNGs.

    Raises:
        DatasetUnavailable: a line has fewer classes.
    """
    textures = Textures(_SIDE, channels=1, seed=_SEED, lines=1, images_per_class=images_a_class)
    classes = {
        f"class-{index}": [
            (f"{index}-{number:03}.png", _png(pixels[0].numpy()))
            for number, pixels in enumerate(textures.images(index))
        ]
        for index in range(n_way)
    }
    return LabelledPngs(f"{n_way} generated classes of {images_a_class} images of {_SIDE} px", classes)


def draw(images: LabelledPngs, generator: np.random.Generator, n_way: int, n_shot: int, max_queries: int = 0) -> Draw:
    """Draw classes, and support and queries per class.

    Args:
        images: images to draw from.
        generator: source of randomness.
        n_way: number of classes.
        n_shot: support images per class.
        max_queries: maximum queries per class; 0 takes all remaining images.

    Raises:
        DatasetUnavailable: too few classes, or a class too small to leave a query.
    """
    names = sorted(images.classes)
    if n_way > len(names) or min(len(images.classes[name]) for name in names) <= n_shot:
        raise DatasetUnavailable(f"{images.name}: not enough for {n_way} classes with {n_shot} images and a query each")
    support: list[LabelledFile] = []
    queries: dict[str, tuple[bytes, ...]] = {}
    for name in sorted(generator.choice(names, n_way, replace=False).tolist()):
        files = [images.classes[name][index] for index in generator.permutation(len(images.classes[name]))]
        support += [LabelledFile(name, file_name, content) for file_name, content in files[:n_shot]]
        rest = files[n_shot : n_shot + max_queries if max_queries else None]
        queries[name] = tuple(content for _, content in rest)
    return Draw(tuple(support), queries)


def _png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    return encoded.getvalue()
