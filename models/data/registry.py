"""Opens datasets by the names that the command line uses."""

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
"""Seed of Omniglot's random split into 1200 training and 423 test characters, used for all published results."""

TEXTURE_LINES = 512
"""Product lines of procedural textures in the training split: 4096 classes."""

MINI_IMAGENET_SIZES = PUBLISHED
"""Expected sizes of mini-ImageNet's splits."""

_FOLDER = "folder:"


@dataclass(frozen=True)
class DatasetSplits:
    """Training and test classes of a dataset.

    Attributes:
        train: classes to meta-train on.
        test: classes to evaluate on. For a folder these are the training classes, so do not evaluate a checkpoint
            that was trained on it.
        record: JSON data that identifies the dataset in a checkpoint's training record.
    """

    train: ClassDataset
    test: ClassDataset
    record: Mapping[str, Any]


def open_dataset(name: str, config: ImageConfig, data_root: Path | None, cache_folder: Path) -> DatasetSplits:
    """Open a dataset by name.

    Args:
        name: "omniglot", "mini-imagenet", "mini-imagenet:val" (tests on the validation classes, for tuning), "textures"
            or "folder:PATH" (a folder or .zip of class folders, relative to the working directory or `data_root`).
        config: channels and side of the images.
        data_root: folder with downloaded datasets, or None.
        cache_folder: for downloads and decoded images.

    Raises:
        DatasetUnavailable: the name is unknown, or the dataset cannot be found or read.
    """
    if name == "omniglot":
        omniglot = open_omniglot(data_root, cache_folder, config)
        train, test = omniglot.split(SPLIT_SEED)
        return DatasetSplits(train, test, {"name": name, "split_seed": SPLIT_SEED})
    if name in ("mini-imagenet", "mini-imagenet:val"):
        splits = open_mini_imagenet(data_root, cache_folder, config, MINI_IMAGENET_SIZES)
        test_split = splits.val if name.endswith(":val") else splits.test
        return DatasetSplits(splits.train, test_split, {"name": "mini-imagenet", "split": "Ravi & Larochelle"})
    if name == "textures":
        training = Textures(config.side, config.channels, seed=0, lines=TEXTURE_LINES, kept_classes=8 * TEXTURE_LINES)
        held_out = Textures(config.side, config.channels, seed=1, lines=32)
        record = {"name": name, "version": TEXTURES_VERSION, "lines": TEXTURE_LINES, "images_per_class": 20}
        return DatasetSplits(training, held_out, record)
    if name.startswith(_FOLDER):
        dataset = open_folder(_existing(Path(name.removeprefix(_FOLDER)), data_root), config)
        return DatasetSplits(dataset, dataset, {"name": name})
    raise DatasetUnavailable(
        f"no dataset {name!r}; allowed: omniglot, mini-imagenet, mini-imagenet:val, textures, folder:PATH"
    )


def _existing(path: Path, data_root: Path | None) -> Path:
    if not path.exists() and data_root is not None and (data_root / path).exists():
        return data_root / path
    return path
