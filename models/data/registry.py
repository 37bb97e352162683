"""Data sets by the names that the command line uses. It opens them; how they are read is each one's own module's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.data.class_dataset import ClassDataset
from models.data.folders import open_folder
from models.data.mini_imagenet import PUBLISHED, open_mini_imagenet
from models.data.omniglot import open_omniglot
from models.data.synthetic import TEXTURES_VERSION, Textures
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig

SPLIT_SEED = 0
"""Of Omniglot's random split into 1200 training and 423 test characters; the same for every figure reported."""

TEXTURE_LINES = 512
"""Product lines of procedural textures in the training set: 4096 classes."""

MINI_IMAGENET_SIZES = PUBLISHED
"""What mini-ImageNet's parts must hold."""

_FOLDER = "folder:"


@dataclass(frozen=True)
class DataSet:
    """A data set, opened.

    Attributes:
        train: classes to meta-train on.
        test: classes to evaluate on; for a folder the same classes, which then must not have been trained on.
        record: what it is, as JSON data, for the checkpoint's training record.
    """

    train: ClassDataset
    test: ClassDataset
    record: Mapping[str, Any]


def open_dataset(name: str, spec: ImageConfig, data_root: Path | None, cache_folder: Path) -> DataSet:
    """Open a data set.

    Args:
        name: "omniglot", "mini-imagenet" ("mini-imagenet:val" evaluates on the validation classes, to choose settings
            by), "textures" or "folder:PATH" (a folder or zip of class folders; relative to `data_root` if it is not
            there as it stands).
        spec: channels and side of the images.
        data_root: where downloaded data lie, or None.
        cache_folder: for downloads and decoded images.

    Raises:
        DatasetUnavailable: unknown name, or the data cannot be found or read.
    """
    if name == "omniglot":
        omniglot = open_omniglot(data_root, cache_folder, spec)
        train, test = omniglot.split(SPLIT_SEED)
        return DataSet(train, test, {"name": name, "split_seed": SPLIT_SEED})
    if name in ("mini-imagenet", "mini-imagenet:val"):
        parts = open_mini_imagenet(data_root, cache_folder, spec, MINI_IMAGENET_SIZES)
        held_back = parts.val if name.endswith(":val") else parts.test
        return DataSet(parts.train, held_back, {"name": "mini-imagenet", "split": "Ravi & Larochelle"})
    if name == "textures":
        training = Textures(spec.side, spec.channels, seed=0, lines=TEXTURE_LINES, kept_classes=8 * TEXTURE_LINES)
        held_out = Textures(spec.side, spec.channels, seed=1, lines=32)
        record = {"name": name, "version": TEXTURES_VERSION, "lines": TEXTURE_LINES, "images_per_class": 20}
        return DataSet(training, held_out, record)
    if name.startswith(_FOLDER):
        classes = open_folder(_existing(Path(name.removeprefix(_FOLDER)), data_root), spec)
        return DataSet(classes, classes, {"name": name})
    raise DatasetUnavailable(f"no data set {name!r}; there are omniglot, mini-imagenet, textures and folder:PATH")


def _existing(path: Path, data_root: Path | None) -> Path:
    if not path.exists() and data_root is not None and (data_root / path).exists():
        return data_root / path
    return path
