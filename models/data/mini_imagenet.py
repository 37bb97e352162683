"""mini-ImageNet in the split of Ravi & Larochelle (ICLR 2017): 64 training, 16 validation and 20 test classes.

Read from a folder or .zip with the three split files and the images, either all in one folder with the names that the
split files give, or one folder a class. ImageNet may not be passed on, so there is no public download: whoever has the
images lays them out. Counts are verified before anything is decoded. It refuses to know episodes and nets.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from models.atomic_files import write_atomically
from models.data.archives import archive_key, is_litter, read_files
from models.data.class_dataset import ArrayDataset, ClassDataset
from models.errors import DatasetUnavailable, ImageRejected
from models.images.preprocessing import PREPROCESSING_VERSION, ImageConfig, decode, fit_to_side

FOLDER = "mini-imagenet"
SPLITS = ("train", "val", "test")

_IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_HOW_TO_LAY_OUT = (
    "ImageNet may not be passed on, so there is no public download; put under the folder that --data-root names "
    f"{FOLDER}/train.csv, {FOLDER}/val.csv and {FOLDER}/test.csv (the split files of Ravi & Larochelle, columns "
    f"filename,label) and either {FOLDER}/images/n0153282900000005.jpg and so on, as the split files name them, or one "
    f"folder a class, {FOLDER}/n01532829/*.jpg; {FOLDER}.zip with the same inside is read too"
)


@dataclass(frozen=True)
class SplitSizes:
    """How many classes each part must have, and how many images each class.

    Attributes:
        train: classes to meta-train on.
        val: classes to choose settings by.
        test: classes to report.
        images_per_class: of every class.
    """

    train: int = 64
    val: int = 16
    test: int = 20
    images_per_class: int = 600


PUBLISHED = SplitSizes()


@dataclass(frozen=True)
class MiniImagenet:
    """The three parts; no class is in two of them. Class names are WordNet ids, sorted."""

    train: ClassDataset
    val: ClassDataset
    test: ClassDataset


def open_mini_imagenet(
    data_root: Path | None, cache_folder: Path, spec: ImageConfig, sizes: SplitSizes = PUBLISHED
) -> MiniImagenet:
    """Opens mini-ImageNet at the spec's channels and side; decoded images are kept in `cache_folder`.

    The kept images are mapped into memory rather than read, so that a part that is not used costs nothing: at 84 pixels
    in colour all of them are 1.3 GB.

    Args:
        data_root: where the folder or .zip is looked for; None finds nothing.
        cache_folder: made if missing.
        spec: channels and side (84 in the paper); contrast is left to ``models.images.preprocessing.normalise``.
        sizes: what must be there; other than the default in tests alone.

    Raises:
        DatasetUnavailable: not there, a split file is missing or wrong, the counts differ, or a file is no image.
    """
    location = _locate(data_root)
    kind = f"p{PREPROCESSING_VERSION}-c{spec.channels}-s{spec.side}"
    names, key = _split_names(location), archive_key(location)
    plan = _plan(location, names, sizes)
    kept = {split: cache_folder / f"{FOLDER}-{split}-{key}-{kind}.npy" for split in SPLITS}
    arrays = {split: _mapped(path) for split, path in kept.items()}
    if any(array is None for array in arrays.values()):
        _decode_into(kept, location, plan, spec)
        arrays = {split: _mapped(path) for split, path in kept.items()}
    return MiniImagenet(*(_part(split, sorted(plan[split]), arrays[split]) for split in SPLITS))


def _locate(data_root: Path | None) -> Path:
    roots = [data_root] if data_root is not None else []
    for candidate in (root / name for root in roots for name in (FOLDER, f"{FOLDER}.zip")):
        if candidate.exists():
            return candidate
    where = f"under {data_root}" if data_root is not None else "anywhere: no data root is named"
    raise DatasetUnavailable(f"mini-ImageNet is not {where}; {_HOW_TO_LAY_OUT}")


@dataclass(frozen=True)
class _SplitNames:
    """One split file: its classes, and the images it names, file name -> class."""

    classes: frozenset[str]
    files: Mapping[str, str]


def _split_names(location: Path) -> dict[str, _SplitNames]:
    """What the three split files say; no class may be in two of them."""
    names = {split: _parse(f"{location}: {split}.csv", _text(location, f"{split}.csv")) for split in SPLITS}
    seen: set[str] = set()
    for split, own in names.items():
        twice = sorted(seen & own.classes)
        if twice:
            raise DatasetUnavailable(
                f"{location}: {', '.join(twice[:3])} of {split}.csv is in another split file too; "
                "the parts must share no class: use the published files"
            )
        seen |= own.classes
    return names


def _parse(source: str, text: str) -> _SplitNames:
    rows = csv.DictReader(io.StringIO(text))
    if "label" not in (rows.fieldnames or ()):
        raise DatasetUnavailable(f"{source} has columns {rows.fieldnames}; filename,label are needed")
    read = [(row.get("filename") or "", row["label"]) for row in rows if row["label"]]
    return _SplitNames(frozenset(label for _, label in read), {name: label for name, label in read if name})


def _text(location: Path, name: str) -> str:
    """A split file's text: the one nearest to the top."""
    found = [path for path in _listing(location) if PurePosixPath(path).name == name]
    if not found:
        raise DatasetUnavailable(f"{location} has no {name}; {_HOW_TO_LAY_OUT}")
    nearest = min(found, key=lambda path: (path.count("/"), path))
    if location.is_dir():
        content = (location / nearest).read_bytes()
    else:
        with zipfile.ZipFile(location) as opened:
            content = opened.read(nearest)
    return content.decode("utf-8-sig", errors="replace")


def _listing(location: Path) -> list[str]:
    """Paths of all files inside, hidden ones and litter left out, sorted."""
    if location.is_dir():
        inside = [path.relative_to(location).as_posix() for path in location.rglob("*") if path.is_file()]
    else:
        try:
            with zipfile.ZipFile(location) as opened:
                inside = [entry.filename for entry in opened.infolist() if not entry.is_dir()]
        except zipfile.BadZipFile as error:
            raise DatasetUnavailable(f"{location} cannot be read as a .zip ({error}); give an undamaged one") from error
    return sorted(path for path in inside if not is_litter(PurePosixPath(path)))


def _plan(location: Path, names: Mapping[str, _SplitNames], sizes: SplitSizes) -> dict[str, dict[str, list[str]]]:
    """Split -> class -> paths of its images, with verified counts.

    A class whose images the split file names by name has those; any other has all images of the folder of its name.
    """
    images = [PurePosixPath(path) for path in _listing(location)]
    images = [path for path in images if path.suffix.lower() in _IMAGE_ENDINGS]
    plan: dict[str, dict[str, list[str]]] = {}
    for split, own in names.items():
        named: dict[str, list[str]] = {label: [] for label in own.classes}
        in_folder: dict[str, list[str]] = {label: [] for label in own.classes}
        for path in images:
            label = own.files.get(path.name)
            if label is not None:
                named[label].append(str(path))
            if path.parent.name in own.classes:
                in_folder[path.parent.name].append(str(path))
        plan[split] = {label: named[label] or in_folder[label] for label in sorted(own.classes)}
        _verify(f"{location}: {split}.csv", plan[split], getattr(sizes, split), sizes.images_per_class)
    return plan


def _verify(source: str, classes: Mapping[str, list[str]], expected: int, images_per_class: int) -> None:
    if len(classes) != expected:
        raise DatasetUnavailable(
            f"{source} names {len(classes)} classes; the split has {expected}: use the published file"
        )
    wrong = [f"{label} has {len(paths)}" for label, paths in classes.items() if len(paths) != images_per_class]
    if wrong:
        raise DatasetUnavailable(
            f"{source}: every class needs {images_per_class} images, but {', '.join(wrong[:3])} "
            f"({len(wrong)} of {len(classes)} classes are not as they should be); {_HOW_TO_LAY_OUT}"
        )


def _decode_into(
    kept: Mapping[str, Path], location: Path, plan: Mapping[str, Mapping[str, list[str]]], spec: ImageConfig
) -> None:
    """Decodes every image once, in one pass over the files, and keeps each split's as one array."""
    wanted = {path for classes in plan.values() for paths in classes.values() for path in paths}
    decoded = {
        path: _decoded(f"{location}: {path}", content, spec) for path, content in read_files(location) if path in wanted
    }
    for split, classes in plan.items():
        array = torch.stack([decoded.pop(path) for paths in classes.values() for path in paths])
        classwise = array.view(len(classes), -1, *array.shape[1:]).numpy()
        write_atomically(kept[split], partial(np.save, arr=classwise, allow_pickle=False), durable=False)


def _decoded(name: str, content: bytes, spec: ImageConfig) -> Tensor:
    try:
        return fit_to_side(decode(content), spec)
    except ImageRejected as error:
        raise DatasetUnavailable(f"{name} is no image of mini-ImageNet: {error}; put the original there") from error


def _mapped(path: Path) -> Tensor | None:
    """uint8 (classes, images, channels, side, side) of an earlier run, mapped; a damaged file counts as none."""
    if not path.exists():
        return None
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def _part(split: str, class_names: list[str], array: Tensor | None) -> ClassDataset:
    if array is None:
        raise DatasetUnavailable(f"the cache of mini-ImageNet's {split} images cannot be read back; make room for it")
    return ArrayDataset(f"mini-ImageNet {split} classes", class_names, list(array))
