"""Opens datasets by the names that the command line uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.data.class_dataset import ClassDataset, DatasetSubset
from models.data.folders import open_folder
from models.data.mini_imagenet import PUBLISHED, open_mini_imagenet
from models.data.omniglot import open_omniglot
from models.data.omniglot_strokes import open_omniglot_strokes
from models.data.synthetic import NOTED_SURFACES_VERSION, TEXTURES_VERSION, NotedSurfaces, Textures
from models.data.synthetic.noted_surfaces import TEST_SIDES, TRAIN_SIDES
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig

SPLIT_SEED = 0
"""Seed of Omniglot's random split into 1200 training and 423 test characters, used for all published results."""

TEXTURE_LINES = 512
"""Product lines of procedural textures in the training split: 4096 classes."""

MINI_IMAGENET_SIZES = PUBLISHED
"""Expected sizes of mini-ImageNet's splits."""

_FOLDER = "folder:"
_VALIDATION = ":val"


@dataclass(frozen=True)
class DatasetSplits:
    """Training and test classes of a dataset.

    Attributes:
        train: classes to meta-train on.
        test: classes to evaluate on, or to validate on with ":val". For a folder without ":val" these are the training
            classes, so do not evaluate a checkpoint that was trained on it.
        record: JSON data that identifies the dataset in a checkpoint's training record.
    """

    train: ClassDataset
    test: ClassDataset
    record: Mapping[str, Any]


def open_dataset(name: str, config: ImageConfig, data_root: Path | None, cache_folder: Path) -> DatasetSplits:
    """Open a dataset by name.

    Args:
        name: "omniglot", "omniglot-strokes" (with pen strokes), "mini-imagenet", "textures", "surface-notes" (with
            notes) or "folder:PATH" (a folder or .zip of class folders, relative to the working directory or
            `data_root`). With ":val" at its end, the second part has validation classes instead of test classes, for
            tuning, and training and validation classes share none. Those of mini-ImageNet are published; of Omniglot, a
            fifth of the training characters, upright; of a folder, a fifth of its classes.
        config: channels and side of the images.
        data_root: folder with downloaded datasets, or None.
        cache_folder: for downloads and decoded images.

    Raises:
        DatasetUnavailable: the name is unknown, or the dataset cannot be found or read.
    """
    wanted, validate = name.removesuffix(_VALIDATION), name.endswith(_VALIDATION)
    if wanted == "omniglot":
        omniglot = open_omniglot(data_root, cache_folder, config)
        if validate:
            train, held_out = omniglot.split_for_tuning(SPLIT_SEED)
            return DatasetSplits(train, held_out, {"name": name, "split_seed": SPLIT_SEED})
        train, test = omniglot.split(SPLIT_SEED)
        return DatasetSplits(train, test, {"name": name, "split_seed": SPLIT_SEED})
    if wanted == "omniglot-strokes" and not validate:
        train, test = open_omniglot_strokes(data_root, cache_folder, config)
        return DatasetSplits(train, test, {"name": name})
    if wanted == "surface-notes":
        noted = NotedSurfaces(config.side, config.channels, seed=0)
        seed, sides = (2, TRAIN_SIDES) if validate else (1, TEST_SIDES)
        unseen = NotedSurfaces(config.side, config.channels, seed, lines=32, sides=sides, invented=0)
        return DatasetSplits(noted, unseen, {"name": wanted, "version": NOTED_SURFACES_VERSION})
    if wanted == "mini-imagenet":
        splits = open_mini_imagenet(data_root, cache_folder, config, MINI_IMAGENET_SIZES)
        test = splits.val if validate else splits.test
        return DatasetSplits(splits.train, test, {"name": wanted, "split": "Ravi & Larochelle"})
    if wanted == "textures":
        training = Textures(config.side, config.channels, seed=0, lines=TEXTURE_LINES, kept_classes=8 * TEXTURE_LINES)
        held_out = Textures(config.side, config.channels, seed=2 if validate else 1, lines=32)
        record = {"name": wanted, "version": TEXTURES_VERSION, "lines": TEXTURE_LINES, "images_per_class": 20}
        return DatasetSplits(training, held_out, record)
    if wanted.startswith(_FOLDER):
        dataset = open_folder(_existing(Path(wanted.removeprefix(_FOLDER)), data_root), config)
        train, held_out = _hold_out(dataset) if validate else (dataset, dataset)
        return DatasetSplits(train, held_out, {"name": name})
    if wanted == "omniglot-strokes":
        raise DatasetUnavailable(
            "omniglot-strokes has no validation classes; those that have: omniglot, mini-imagenet, textures, "
            "surface-notes, folder:PATH"
        )
    raise DatasetUnavailable(
        f"no dataset {wanted!r}; allowed: omniglot, omniglot-strokes, mini-imagenet, textures, surface-notes, "
        "folder:PATH, and each of them but omniglot-strokes with :val"
    )


def _hold_out(dataset: ClassDataset) -> tuple[ClassDataset, ClassDataset]:
    """Divide the classes at random: a fifth of them, at least two, is for validation."""
    held_out = max(2, len(dataset) // 5)
    if len(dataset) < held_out + 2:
        raise DatasetUnavailable(
            f"{dataset.name} has {len(dataset)} classes; at least 4 are needed to hold two of them out for validation"
        )
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    return (
        DatasetSubset(dataset, order[held_out:], f"{dataset.name} training classes"),
        DatasetSubset(dataset, order[:held_out], f"{dataset.name} validation classes"),
    )


def _existing(path: Path, data_root: Path | None) -> Path:
    if not path.exists() and data_root is not None and (data_root / path).exists():
        return data_root / path
    return path
