"""A folder, or a .zip, of class folders of images: the data set that people have at hand.

``wrapper/class/image.png`` and ``class/image.png`` are both read; deeper folders become part of the class name. This
module refuses to know episodes and nets.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from torch import Tensor

from models.data.archives import read_files
from models.data.class_dataset import ArrayDataset
from models.errors import DatasetUnavailable, ImageRejected
from models.images.preprocessing import DEFAULT_LIMITS, ImageConfig, decode, fit_to_side

MIN_IMAGES = 2  # one to learn from, one to be asked about


@dataclass(frozen=True)
class FolderRules:
    """How a folder is read.

    Attributes:
        group_pattern: regular expression searched in each file name; images with the same match (the first group, if
            there is one) come from the same source image and share an origin. None makes every image its own origin.
        unreadable: "raise" ends at the first file that is no image, "skip" leaves it out and says so in ``left_out``.
    """

    group_pattern: str | None = None
    unreadable: Literal["raise", "skip"] = "raise"


DEFAULT_RULES = FolderRules()


@dataclass(frozen=True)
class _Entry:
    path: PurePosixPath
    class_name: str
    digest: str
    content: bytes


class FolderDataset(ArrayDataset):
    """What was read from a folder.

    Attributes:
        file_names: for each class the paths of its images, in the order of ``images``.
        duplicates: how many exact copies were dropped.
        left_out: a sentence for each file, image or class that is not part of the set, and why.
    """

    def __init__(self, name: str, read: dict[str, list[tuple[PurePosixPath, Tensor]]], rules: FolderRules) -> None:
        super().__init__(name, list(read), [torch.stack([image for _, image in images]) for images in read.values()])
        self.file_names = tuple(tuple(str(path) for path, _ in images) for images in read.values())
        self.duplicates = 0
        self.left_out: tuple[str, ...] = ()
        self._origins = _origins(self.file_names, rules.group_pattern)

    def origins(self, class_index: int) -> tuple[str, ...]:
        """For each image the name of its source image, after ``FolderRules.group_pattern``."""
        return self._origins[class_index]


def open_folder(location: Path, spec: ImageConfig, rules: FolderRules = DEFAULT_RULES) -> FolderDataset:
    """Reads a folder or .zip of class folders at the spec's channels and side.

    Exact copies (same SHA-256) within a class are dropped but for the first; a picture that lies in several classes is
    dropped from all, since its label is unknown. Classes left with fewer than two images are left out.

    Args:
        location: the folder or .zip file.
        spec: channels and side; contrast is left to ``models.images.preprocessing.normalise``.
        rules: grouping, and what to do with files that are no images.

    Raises:
        DatasetUnavailable: nothing there, fewer than two usable classes, or a pattern that matches no file.
        ImageRejected: a file that is no image, its path in the message, unless such files are skipped.
    """
    left_out: list[str] = []
    entries = _with_classes(read_files(location, DEFAULT_LIMITS.max_bytes), left_out)
    unique = _unique(entries, left_out)
    read: dict[str, list[tuple[PurePosixPath, Tensor]]] = defaultdict(list)
    for entry in unique:
        image = _image(entry, spec, rules, left_out)
        if image is not None:
            read[entry.class_name].append((entry.path, image))
    usable = _large_enough(read, left_out)
    if len(usable) < 2:
        raise DatasetUnavailable(
            f"{location} has {len(usable)} classes with at least {MIN_IMAGES} images; two are needed: "
            f"one folder a class, with its images inside. {' '.join(left_out[:5])}"
        )
    classes = FolderDataset(location.stem, usable, rules)
    classes.duplicates = len(entries) - len(unique)
    classes.left_out = tuple(left_out)
    return classes


def _with_classes(files: Iterable[tuple[str, bytes]], left_out: list[str]) -> list[_Entry]:
    """Names the class of every file after its folders, less the wrapper folders that all files share."""
    found = [(PurePosixPath(path), content) for path, content in files]
    wrapper = _wrapper([path for path, _ in found])
    entries = []
    for path, content in found:
        folders = path.parts[len(wrapper) : -1]
        if not folders:
            left_out.append(f"{path} lies in no class folder.")
            continue
        entries.append(_Entry(path, "/".join(folders), hashlib.sha256(content).hexdigest(), content))
    return entries


def _wrapper(paths: Sequence[PurePosixPath]) -> tuple[str, ...]:
    """The folders around the class folders: shared by all files, with folders below."""
    wrapper: tuple[str, ...] = ()
    while True:
        depth = len(wrapper)
        firsts = {path.parts[depth] for path in paths if len(path.parts) > depth + 1}
        deeper = any(len(path.parts) > depth + 2 for path in paths)
        if len(firsts) != 1 or not deeper:
            return wrapper
        wrapper = (*wrapper, firsts.pop())


def _unique(entries: Sequence[_Entry], left_out: list[str]) -> list[_Entry]:
    classes_of: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        classes_of[entry.digest].add(entry.class_name)
    seen: set[str] = set()
    unique = []
    for entry in entries:
        if len(classes_of[entry.digest]) > 1:
            left_out.append(f"{entry.path} lies in several classes: {', '.join(sorted(classes_of[entry.digest]))}.")
        elif entry.digest not in seen:
            seen.add(entry.digest)
            unique.append(entry)
    return unique


def _image(entry: _Entry, spec: ImageConfig, rules: FolderRules, left_out: list[str]) -> Tensor | None:
    try:
        return fit_to_side(decode(entry.content), spec)
    except ImageRejected as error:
        if rules.unreadable == "raise":
            raise type(error)(f"{entry.path}: {error}") from error
        left_out.append(f"{entry.path}: {error}.")
        return None


def _large_enough(
    read: dict[str, list[tuple[PurePosixPath, Tensor]]], left_out: list[str]
) -> dict[str, list[tuple[PurePosixPath, Tensor]]]:
    small = sorted(name for name, images in read.items() if len(images) < MIN_IMAGES)
    left_out += [f"Class {name} has {len(read[name])} image; {MIN_IMAGES} are needed." for name in small]
    return {name: read[name] for name in sorted(read) if len(read[name]) >= MIN_IMAGES}


def _origins(file_names: Sequence[Sequence[str]], pattern: str | None) -> tuple[tuple[str, ...], ...]:
    if pattern is None:
        return tuple(tuple(names) for names in file_names)
    compiled = re.compile(pattern)
    matches = [[compiled.search(PurePosixPath(name).name) for name in names] for names in file_names]
    if not any(match for row in matches for match in row):
        raise DatasetUnavailable(f"the group pattern {pattern!r} matches no file name, such as {file_names[0][0]!r}")
    return tuple(
        tuple(
            name if match is None else match.group(1 if compiled.groups else 0)
            for name, match in zip(names, row, strict=True)
        )
        for names, row in zip(file_names, matches, strict=True)
    )
