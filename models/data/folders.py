"""Datasets of users: a folder or .zip with one folder of images per class.

Both ``wrapper/class/image.png`` and ``class/image.png`` are accepted. Deeper folders become part of the class name.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from models.data.archives import read_files
from models.data.class_dataset import ArrayDataset
from models.errors import DatasetUnavailable, ImageRejected
from models.images.preprocessing import DEFAULT_LIMITS, ImageConfig, decode, fit_to_side

MIN_IMAGES = 2
"""One image of a class to adapt on, one to score on."""


@dataclass(frozen=True, slots=True)
class _Entry:
    path: PurePosixPath
    class_name: str
    digest: str
    content: bytes


def open_folder(location: Path, config: ImageConfig) -> ArrayDataset:
    """Read a folder or .zip of class folders.

    Of exact copies within a class (same SHA-256), the first is kept. A file in several classes is skipped everywhere,
    because its label is unclear. Classes with fewer than two images are skipped.

    Args:
        location: the folder or .zip file.
        config: channels and side of the images; contrast is applied later.

    Raises:
        DatasetUnavailable: `location` does not exist, or has fewer than two usable classes.
        ImageRejected: a file is not an accepted image; the message names its path.
    """
    skipped: list[str] = []
    images: dict[str, list[Tensor]] = defaultdict(list)
    for entry in _without_duplicates(_with_classes(read_files(location, DEFAULT_LIMITS.max_bytes), skipped), skipped):
        images[entry.class_name].append(_decode(entry, config))
    names = [name for name in sorted(images) if len(images[name]) >= MIN_IMAGES]
    if len(names) < 2:
        skipped += [f"Class {name} has fewer than {MIN_IMAGES} images." for name in sorted(images) if name not in names]
        raise DatasetUnavailable(
            f"{location} has {len(names)} classes with at least {MIN_IMAGES} images; at least two are needed: one "
            f"folder per class, with its images inside. {' '.join(skipped[:5])}"
        )
    return ArrayDataset(location.stem, names, [torch.stack(images[name]) for name in names])


def _with_classes(files: Iterable[tuple[str, bytes]], skipped: list[str]) -> list[_Entry]:
    """Name the class of each file after its folders, without the wrapper folders that all files share."""
    found = [(PurePosixPath(path), content) for path, content in files]
    wrapper_depth = _wrapper_depth([path for path, _ in found])
    entries = []
    for path, content in found:
        folders = path.parts[wrapper_depth:-1]
        if folders:
            entries.append(_Entry(path, "/".join(folders), hashlib.sha256(content).hexdigest(), content))
        else:
            skipped.append(f"{path} is in no class folder.")
    return entries


def _wrapper_depth(paths: Sequence[PurePosixPath]) -> int:
    """Number of folders around the class folders: shared by all files, with further folders inside."""
    depth = 0
    while True:
        names = {path.parts[depth] for path in paths if len(path.parts) > depth + 1}
        has_folders_inside = any(len(path.parts) > depth + 2 for path in paths)
        if len(names) != 1 or not has_folders_inside:
            return depth
        depth += 1


def _without_duplicates(entries: Sequence[_Entry], skipped: list[str]) -> list[_Entry]:
    classes: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        classes[entry.digest].add(entry.class_name)
    kept: dict[str, _Entry] = {}
    for entry in entries:
        if len(classes[entry.digest]) > 1:
            skipped.append(f"{entry.path} is in several classes: {', '.join(sorted(classes[entry.digest]))}.")
        else:
            kept.setdefault(entry.digest, entry)
    return list(kept.values())


def _decode(entry: _Entry, config: ImageConfig) -> Tensor:
    try:
        return fit_to_side(decode(entry.content), config)
    except ImageRejected as error:
        raise type(error)(f"{entry.path}: {error}") from error
