"""mini-ImageNet in the split of Ravi & Larochelle (ICLR 2017): 64 training, 16 validation and 20 test classes.

Read from a folder or .zip with the three split files and the images, either all in one folder with the names in the
split files, or in one folder per class. There is no public download, because ImageNet may not be redistributed. Counts
are verified before decoding.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from models.atomic_files import write_atomically
from models.data.archives import archive_key, list_files, read_files
from models.data.class_dataset import ArrayDataset, ClassDataset
from models.errors import DatasetUnavailable, ImageRejected
from models.images.preprocessing import PREPROCESSING_VERSION, ImageConfig, decode, fit_to_side

FOLDER = "mini-imagenet"
SPLITS = ("train", "val", "test")

_IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_EXPECTED_LAYOUT = (
    "there is no public download, because ImageNet may not be redistributed; put into the folder of --data-root "
    f"{FOLDER}/train.csv, {FOLDER}/val.csv and {FOLDER}/test.csv (the split files of Ravi & Larochelle, columns "
    f"filename,label) and either {FOLDER}/images/n0153282900000005.jpg etc., named as in the split files, or one "
    f"folder per class, {FOLDER}/n01532829/*.jpg; a {FOLDER}.zip with the same content works too"
)


@dataclass(frozen=True)
class SplitSizes:
    """Expected number of classes per split, and of images per class."""

    train: int = 64
    val: int = 16
    test: int = 20
    images_per_class: int = 600


PUBLISHED = SplitSizes()


@dataclass(frozen=True)
class MiniImagenet:
    """The three splits, which share no class. Class names are WordNet ids, sorted."""

    train: ClassDataset
    val: ClassDataset
    test: ClassDataset


def open_mini_imagenet(
    data_root: Path | None, cache_folder: Path, config: ImageConfig, sizes: SplitSizes = PUBLISHED
) -> MiniImagenet:
    """Open mini-ImageNet and cache the decoded images in `cache_folder`.

    Cached images are memory-mapped, so unused splits take no memory. At 84 pixels in colour, all splits are 1.3 GB.

    Args:
        data_root: folder that contains the dataset's folder or .zip.
        cache_folder: created if missing.
        config: channels and side of the images (84 in the paper); contrast is applied later.
        sizes: expected sizes; tests use smaller ones.

    Raises:
        DatasetUnavailable: the dataset or a split file is missing, the counts are wrong, or a file is not an image.
    """
    location = _locate(data_root)
    kind = f"p{PREPROCESSING_VERSION}-c{config.channels}-s{config.side}"
    splits, key = _read_split_files(location), archive_key(location)
    plan = _plan(location, splits, sizes)
    cached = {split: cache_folder / f"{FOLDER}-{split}-{key}-{kind}.npy" for split in SPLITS}
    arrays = {split: _mapped(path) for split, path in cached.items()}
    if any(array is None for array in arrays.values()):
        _decode_into(cached, location, plan, config)
        arrays = {split: _mapped(path) for split, path in cached.items()}
    return MiniImagenet(*(_dataset(split, sorted(plan[split]), arrays[split]) for split in SPLITS))


def _locate(data_root: Path | None) -> Path:
    roots = [data_root] if data_root is not None else []
    for candidate in (root / name for root in roots for name in (FOLDER, f"{FOLDER}.zip")):
        if candidate.exists():
            return candidate
    where = f"not in {data_root}" if data_root is not None else "not found, because no data root is set"
    raise DatasetUnavailable(f"mini-ImageNet is {where}; {_EXPECTED_LAYOUT}")


@dataclass(frozen=True)
class _SplitFile:
    """Content of a split file: its classes, and file name -> class of the listed images."""

    classes: frozenset[str]
    files: Mapping[str, str]


def _read_split_files(location: Path) -> dict[str, _SplitFile]:
    """Read the three split files, which must not share a class."""
    splits = {name: _parse(f"{location}: {name}.csv", _read_split_file(location, f"{name}.csv")) for name in SPLITS}
    seen: set[str] = set()
    for name, split in splits.items():
        shared = sorted(seen & split.classes)
        if shared:
            raise DatasetUnavailable(
                f"{location}: {', '.join(shared[:3])} of {name}.csv is in another split file too; splits must not "
                "share classes: use the published files"
            )
        seen |= split.classes
    return splits


def _parse(source: str, text: str) -> _SplitFile:
    rows = csv.DictReader(io.StringIO(text))
    if "label" not in (rows.fieldnames or ()):
        raise DatasetUnavailable(f"{source} has columns {rows.fieldnames}; expected filename,label")
    read = [(row.get("filename") or "", row["label"]) for row in rows if row["label"]]
    return _SplitFile(frozenset(label for _, label in read), {name: label for name, label in read if name})


def _read_split_file(location: Path, name: str) -> str:
    """Text of a split file; of several, the one in the outermost folder."""
    found = [path for path in list_files(location) if PurePosixPath(path).name == name]
    if not found:
        raise DatasetUnavailable(f"{location} has no {name}; {_EXPECTED_LAYOUT}")
    outermost = min(found, key=lambda path: (path.count("/"), path))
    ((_, content),) = read_files(location, only={outermost})
    return content.decode("utf-8-sig", errors="replace")


def _plan(location: Path, splits: Mapping[str, _SplitFile], sizes: SplitSizes) -> dict[str, dict[str, list[str]]]:
    """Split -> class -> paths of its images, with verified counts.

    A class has the images that the split file lists, or else all images in the folder with its name.
    """
    images = [PurePosixPath(path) for path in list_files(location)]
    images = [path for path in images if path.suffix.lower() in _IMAGE_ENDINGS]
    plan: dict[str, dict[str, list[str]]] = {}
    for name, split in splits.items():
        listed: dict[str, list[str]] = {label: [] for label in split.classes}
        in_folder: dict[str, list[str]] = {label: [] for label in split.classes}
        for path in images:
            label = split.files.get(path.name)
            if label is not None:
                listed[label].append(str(path))
            if path.parent.name in split.classes:
                in_folder[path.parent.name].append(str(path))
        plan[name] = {label: listed[label] or in_folder[label] for label in sorted(split.classes)}
        _verify(f"{location}: {name}.csv", plan[name], getattr(sizes, name), sizes.images_per_class)
    return plan


def _verify(source: str, classes: Mapping[str, list[str]], expected: int, images_per_class: int) -> None:
    if len(classes) != expected:
        raise DatasetUnavailable(f"{source} has {len(classes)} classes; expected {expected}: use the published file")
    wrong = [f"{label} has {len(paths)}" for label, paths in classes.items() if len(paths) != images_per_class]
    if wrong:
        raise DatasetUnavailable(
            f"{source}: every class needs {images_per_class} images, but {', '.join(wrong[:3])} "
            f"({len(wrong)} of {len(classes)} classes are wrong); {_EXPECTED_LAYOUT}"
        )


def _decode_into(
    cached: Mapping[str, Path], location: Path, plan: Mapping[str, Mapping[str, list[str]]], config: ImageConfig
) -> None:
    """Decode all images in one pass over the files and cache each split as one array."""
    wanted = {path for classes in plan.values() for paths in classes.values() for path in paths}
    decoded = {
        path: _decode(f"{location}: {path}", content, config) for path, content in read_files(location, only=wanted)
    }
    for split, classes in plan.items():
        array = torch.stack([decoded.pop(path) for paths in classes.values() for path in paths])
        classwise = array.view(len(classes), -1, *array.shape[1:]).numpy()
        write_atomically(cached[split], partial(np.save, arr=classwise, allow_pickle=False), durable=False)


def _decode(name: str, content: bytes, config: ImageConfig) -> Tensor:
    try:
        return fit_to_side(decode(content), config)
    except ImageRejected as error:
        raise DatasetUnavailable(f"{name} is not an image of mini-ImageNet: {error}; restore the original") from error


def _mapped(path: Path) -> Tensor | None:
    """Memory-mapped cache file, uint8 (classes, images, channels, side, side); None if missing or damaged."""
    if not path.exists():
        return None
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def _dataset(split: str, class_names: list[str], array: Tensor | None) -> ClassDataset:
    if array is None:
        raise DatasetUnavailable(
            f"the cache of mini-ImageNet's {split} images cannot be read back; check the free disk space"
        )
    return ArrayDataset(f"mini-ImageNet {split} classes", class_names, list(array))
