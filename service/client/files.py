"""What a person points at, a folder of class folders, a zip, images, made into what the client sends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from service.client.types import InvalidInput, LabelledFile

_IGNORED: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


def labelled_folder(folder: Path) -> tuple[LabelledFile, ...]:
    """Read a folder with one sub-folder a class; hidden files and what operating systems add are ignored.

    Raises:
        InvalidInput: no such folder, fewer than two classes in it, or no image in a class.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder; give a folder with one sub-folder a class")
    classes = [path for path in sorted(folder.iterdir()) if path.is_dir() and _counts(path)]
    if len(classes) < 2:
        raise InvalidInput(
            f"{folder} has {len(classes)} sub-folders; give a folder with one sub-folder a class, 2 or more"
        )
    samples: list[LabelledFile] = []
    for class_folder in classes:
        files = [path for path in sorted(class_folder.iterdir()) if path.is_file() and _counts(path)]
        if not files:
            raise InvalidInput(f"{class_folder} has no images; put some there, or remove the folder")
        samples += [LabelledFile(class_folder.name, path.name, _content(path)) for path in files]
    return tuple(samples)


def labelled_files(pairs: Iterable[tuple[Path, str]]) -> tuple[LabelledFile, ...]:
    """Read images given with their labels.

    Raises:
        InvalidInput: one cannot be read.
    """
    return tuple(LabelledFile(label, path.name, _content(path)) for path, label in pairs)


def images(given: Iterable[Path | bytes]) -> tuple[tuple[str, bytes], ...]:
    """Name and content of images given as paths or as bytes.

    Raises:
        InvalidInput: one cannot be read, or none is given.
    """
    read = tuple(
        (f"image-{index}", item) if isinstance(item, bytes) else (item.name, _content(item))
        for index, item in enumerate(given)
    )
    if not read:
        raise InvalidInput("there is no image; give one or more")
    return read


def archive(path: Path) -> tuple[str, bytes]:
    """Name and content of a zip file.

    Raises:
        InvalidInput: it cannot be read.
    """
    return path.name, _content(path)


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.name not in _IGNORED


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
