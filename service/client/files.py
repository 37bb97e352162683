"""Reads the files that a caller wants to send: class folders, zip archives and images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.client.errors import InvalidInput

_IGNORED: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """An image with its label.

    Attributes:
        label: name of the class.
        name: file name, as reports show it.
        content: bytes of the image file.
    """

    label: str
    name: str
    content: bytes


Samples = Path | Sequence[LabelledFile | tuple[Path, str]]
"""A folder with one sub-folder per class, a zip of such a folder, or images with their labels."""


def read_samples(samples: Path | Iterable[LabelledFile | tuple[Path, str]]) -> list[LabelledFile]:
    """Read a folder with one sub-folder per class, or files given as (path, label).

    Hidden files and files that operating systems add to folders are ignored.

    Raises:
        InvalidInput: a file cannot be read, the folder has fewer than two classes, or a class has no image.
    """
    if isinstance(samples, Path):
        return _read_class_folders(samples)
    return [
        item if isinstance(item, LabelledFile) else LabelledFile(item[1], item[0].name, read_file(item[0]))
        for item in samples
    ]


def read_images(images: Iterable[Path | bytes]) -> list[tuple[str, bytes]]:
    """Return (name, content) of images given as paths or as bytes.

    Raises:
        InvalidInput: an image cannot be read, or there is none.
    """
    files = [
        (f"image-{index}", item) if isinstance(item, bytes) else (item.name, read_file(item))
        for index, item in enumerate(images)
    ]
    if not files:
        raise InvalidInput("no image was given; give at least one")
    return files


def read_file(path: Path) -> bytes:
    """Raises InvalidInput if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error


def _read_class_folders(folder: Path) -> list[LabelledFile]:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder; give a folder with one sub-folder per class")
    classes = [path for path in _visible(folder) if path.is_dir()]
    if len(classes) < 2:
        raise InvalidInput(f"{folder} has {len(classes)} sub-folders; at least 2 are needed, one per class")
    samples: list[LabelledFile] = []
    for class_folder in classes:
        files = [path for path in _visible(class_folder) if path.is_file()]
        if not files:
            raise InvalidInput(f"{class_folder} has no images; add some or remove the folder")
        samples += [LabelledFile(class_folder.name, path.name, read_file(path)) for path in files]
    return samples


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name not in _IGNORED]
