"""Reads a folder with one sub-folder per class, and says which entries it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.client.errors import InvalidInput
from service.client.files import LabelledFile, read_file, unreadable

_JUNK: Final = frozenset(
    {
        "#recycle",
        "$recycle.bin",
        "@eadir",
        "__macosx",
        "desktop.ini",
        "ehthumbs.db",
        "system volume information",
        "thumbs.db",
    }
)
"""Files and folders of operating systems and network drives, in lower case."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file or folder that is not sent.

    Attributes:
        path: path within the folder that was read. Bytes that are not UTF-8 are shown as escapes, such as `\\xff`.
        reason: why it was left out, and what to do if it should not be.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The content of a folder with one sub-folder per class.

    Attributes:
        samples: images with their labels.
        skipped: what was left out.
    """

    samples: tuple[LabelledFile, ...]
    skipped: tuple[SkippedFile, ...]


def read_class_folders(folder: str | Path, *, skip_empty: bool = False) -> SampleSet:
    """Read the images of each class. The name of a sub-folder is the label of the images in it.

    Hidden files, files of operating systems, links to nothing, folders inside class folders and names that are not
    UTF-8 are left out.

    Args:
        folder: folder with one sub-folder per class.
        skip_empty: leave out class folders without images, and accept a folder without any.

    Raises:
        InvalidInput: a file cannot be read, the folder has no sub-folder, or a class has no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidInput(f"{shown(folder)} is not a folder; give a folder with one sub-folder per class")
    samples: list[LabelledFile] = []
    skipped: list[SkippedFile] = []
    for class_folder in _entries(folder, folder, skipped):
        if not class_folder.is_dir():
            skipped.append(_skipped(folder, class_folder, "not in a class folder; move it into one"))
            continue
        files = [path for path in _entries(class_folder, folder, skipped) if _is_image_file(path, folder, skipped)]
        if not files and skip_empty:
            skipped.append(_skipped(folder, class_folder, "has no images"))
        elif not files:
            raise InvalidInput(f"{shown(class_folder)} has no images; {_hint(class_folder, skipped)}")
        samples += [LabelledFile(class_folder.name, path.name, read_file(path)) for path in files]
    if not samples and not skip_empty:
        raise InvalidInput(
            f"{shown(folder)} has no sub-folders with images; give a folder with one sub-folder per class, named by "
            "its label"
        )
    return SampleSet(tuple(samples), tuple(skipped))


def shown(path: str | Path) -> str:
    """Return a path as text that can be printed, with bytes that are not UTF-8 as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _entries(folder: Path, root: Path, skipped: list[SkippedFile]) -> list[Path]:
    """Return the sorted entries of a folder, and add those that are left out to `skipped`."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
    reasons = {path: why_not(path) for path in entries}
    skipped += [_skipped(root, path, reason) for path, reason in reasons.items() if reason]
    return [path for path, reason in reasons.items() if not reason]


def why_not(path: Path) -> str:
    """Return why a file or folder is left out, whatever folder it is in; empty if it is not."""
    if path.name.casefold() in _JUNK:
        return "made by an operating system"
    if path.name.startswith("."):
        return "hidden"
    if shown(path.name) != path.name:
        return "the name is not UTF-8; rename it"
    return "a link to nothing" if path.is_symlink() and not path.exists() else ""


def _is_image_file(path: Path, root: Path, skipped: list[SkippedFile]) -> bool:
    if path.is_file():
        return True
    reason = "a folder inside a class folder; move its images up" if path.is_dir() else "not a regular file"
    skipped.append(_skipped(root, path, reason))
    return False


def _hint(class_folder: Path, skipped: list[SkippedFile]) -> str:
    """Say what to do about a class folder without images, and what it has instead."""
    inside = [each for each in skipped if each.path.startswith(f"{class_folder.name}/")]
    if not inside:
        return "add some or remove the folder"
    return "; ".join(f"{each.path} was skipped: {each.reason}" for each in inside)


def _skipped(root: Path, path: Path, reason: str) -> SkippedFile:
    return SkippedFile(shown(path.relative_to(root)), reason)
