"""Reads the files that a caller wants to send: labelled images and images to classify."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.client.errors import InvalidInput

ImageSource = str | Path | bytes
"""Path of an image file, or its bytes."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image to classify, with what comes with it. An image that comes alone can be given as its path or bytes.

    Attributes:
        source: path of an image file, or its bytes.
        text: a note, for versions of models that take texts.
        vector: numbers, such as readings of sensors, for versions of models that take vectors.
        part: name of the physical part that it shows, for the prediction log.
    """

    source: ImageSource
    text: str | None = None
    vector: Sequence[float] | None = None
    part: str | None = None


Images = ImageSource | Image | Iterable[ImageSource | Image]
"""One image or several."""


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """An image with its label.

    Attributes:
        label: name of the class.
        name: file name, as reports show it.
        content: bytes of the image file.
        part: name of the physical part that it shows; None if it is not known. Give it for all images or for none.
        text: a note, for models that take texts.
        vector: numbers, such as readings of sensors, for models that take vectors.
    """

    label: str
    name: str
    content: bytes
    part: str | None = None
    text: str | None = None
    vector: Sequence[float] | None = None


def with_parts(samples: Iterable[LabelledFile], pattern: str) -> list[LabelledFile]:
    """Return the samples with the part that each shows, found in its file name.

    Args:
        samples: images with their labels.
        pattern: regular expression with one group, such as ``(.+)_`` for names like ``0417_2.png``. It is searched in
            the file name, and its group is the part.

    Raises:
        InvalidInput: the pattern is not valid, or a file name does not contain it.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InvalidInput(f"{pattern!r} is not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise InvalidInput(f"{pattern!r} has {compiled.groups} groups; give one, around the name of the part")
    return [replace(sample, part=_part(sample, compiled)) for sample in samples]


def _part(sample: LabelledFile, pattern: re.Pattern[str]) -> str:
    found = pattern.search(sample.name)
    if found is None or not found[1]:
        raise InvalidInput(f"the pattern {pattern.pattern!r} finds no part in the file name {sample.name!r}")
    return found[1]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that is read when it is sent.

    Attributes:
        name: file name, as the response shows it.
        source: path, or bytes of the image file.
        size_bytes: size of the file.
        text: see `Image`.
        vector: see `Image`.
        part: see `Image`.
    """

    name: str
    source: Path | bytes
    size_bytes: int
    text: str | None = None
    vector: Sequence[float] | None = None
    part: str | None = None

    def read(self) -> bytes:
        """Return the bytes of the file. Raises InvalidInput if it cannot be read."""
        return self.source if isinstance(self.source, bytes) else read_file(self.source)


def list_images(images: Images) -> list[ImageFile]:
    """Return the images that a caller gave.

    Raises:
        InvalidInput: an image cannot be read, or there is none.
    """
    listed = [images] if isinstance(images, str | Path | bytes | Image) else images
    files = [_image_file(index, item if isinstance(item, Image) else Image(item)) for index, item in enumerate(listed)]
    if not files:
        raise InvalidInput("no image was given; give at least one")
    return files


def _image_file(index: int, image: Image) -> ImageFile:
    if isinstance(image.source, bytes):
        return ImageFile(f"image-{index}", image.source, len(image.source), image.text, image.vector, image.part)
    path = Path(image.source)
    try:
        with path.open("rb") as opened:
            size_bytes = opened.seek(0, io.SEEK_END)
        return ImageFile(path.name, path, size_bytes, image.text, image.vector, image.part)
    except OSError as error:
        raise unreadable(path, error) from error


def read_file(path: Path) -> bytes:
    """Raises InvalidInput if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> InvalidInput:
    """Return the error for a file or folder that cannot be read."""
    hint = f"; pass its files, such as {path}/*" if isinstance(error, IsADirectoryError) else ""
    return InvalidInput(f"cannot read {path}: {error.strerror or error}{hint}")
