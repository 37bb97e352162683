"""Reads zip archives with one folder per class.

Sizes are limited and nothing is written. Names of entries are shown in messages and never used as paths.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from models.data.archives import entry_name, is_junk, with_slashes
from models.errors import AnoleError
from service.domain.version import clean_file_name
from service.errors import NoSamples
from service.http.problems import ArchiveTooLarge, InvalidArchive
from service.http.uploads import check_size, shown
from service.runtime.decoder import Upload
from service.settings import Settings

ARCHIVE_GROWTH: Final = 2
"""How many times as many bytes as the body of a request the files of an archive may have after decompression."""

_LAYOUT: Final = "an archive has one folder per class, with the images of the class in it"
_COMPRESSIONS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 0x1
_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, ValueError)
"""What zipfile raises for invalid offsets, sizes and names."""
_CENTRAL_DIRECTORY_ENTRIES: Final = 4096
"""Maximum number of entries, including ignored ones."""
_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
"""Begins each entry of the central directory."""
_IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".avif", ".jp2")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of an archive.

    Attributes:
        info: where it lies.
        name: its path, with forward slashes.
        named: whether the character set of the name is known. If not, only its ASCII characters are right.
    """

    info: zipfile.ZipInfo
    name: str
    named: bool

    @classmethod
    def of(cls, info: zipfile.ZipInfo) -> _Entry:
        """Read the name. Raises InvalidArchive if it is no path below the archive."""
        name = entry_name(info)
        entry = cls(info, with_slashes(info.orig_filename) if name is None else name, name is not None)
        if "\0" in entry.name or not (entry.steps or entry.is_folder):
            raise InvalidArchive(f"an entry of the archive has no name, or a NUL in it; {_LAYOUT}")
        if ".." in entry.steps:
            raise InvalidArchive(f"entry {shown(entry.name)} has '..' in its path; {_LAYOUT}")
        return entry

    @property
    def steps(self) -> tuple[str, ...]:
        """Its folders, and its name if it is a file, without "." steps."""
        return tuple(step for step in self.name.split("/") if step not in ("", "."))

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")  # `ZipInfo.is_dir` does not know backslashes

    @property
    def is_image(self) -> bool:
        return PurePosixPath(self.name).suffix.lower() in _IMAGE_SUFFIXES

    @property
    def folders(self) -> tuple[str, ...]:
        return self.steps if self.is_folder else self.steps[:-1]

    @property
    def path(self) -> str:
        return "/".join(self.steps)


def unpack(
    archive: Upload, settings: Settings, take_memory: Callable[[int], None] = lambda _size_bytes: None
) -> tuple[tuple[Upload, ...], tuple[str, ...]]:
    """Return the images of an archive, and as their labels the names of their folders.

    One folder around the class folders is allowed. Hidden files, files of operating systems and texts beside the class
    folders are ignored.

    Args:
        archive: the zip file.
        settings: the limits.
        take_memory: is called with the size of all files before the first one is unpacked, and may raise.

    Raises:
        InvalidArchive: not a zip file, encrypted, damaged, without class folders, with an empty class folder, with
            names in an unknown character set, or with ".." in a path.
        ArchiveTooLarge: too many entries, or too many bytes after decompression.
        FileTooLarge: an entry is too large.
        NoSamples: it has no files.
    """
    if archive.content.count(_ENTRY_SIGNATURE) > _CENTRAL_DIRECTORY_ENTRIES:  # zipfile would read all entries first
        raise ArchiveTooLarge(f"the archive has more than {_CENTRAL_DIRECTORY_ENTRIES} entries, which is the limit")
    try:
        with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
            images = _images([_Entry.of(info) for info in opened.infolist()])
            _check(images, settings)
            take_memory(sum(image.info.file_size for image in images))  # zipfile reads no more than that
            uploads = tuple(check_size(_read(opened, image, settings), settings) for image in images)
    except AnoleError:
        raise  # our own errors are more precise than those of zipfile
    except UnicodeDecodeError as error:
        raise _unknown_charset(error.object.decode("ascii", "backslashreplace")) from error
    except _UNREADABLE as error:
        raise InvalidArchive(f"archive {archive.name!r} is not a readable zip file: {error}") from error
    return uploads, tuple(image.folders[-1] for image in images)


def _unknown_charset(name: str) -> InvalidArchive:
    return InvalidArchive(
        f"the name of entry {shown(name)} is in a character set that the archive does not declare; make the archive "
        "with names in UTF-8 (7-Zip: -mcu=on), or name the folders in English letters"
    )


def _images(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return the files in class folders.

    Raises:
        NoSamples: there are no files.
        InvalidArchive: the folders do not fit the layout.
    """
    files = [entry for entry in entries if not entry.is_folder and not is_junk(entry.steps)]
    if not files:
        raise NoSamples(f"the archive has no files; {_LAYOUT}")
    depth, wrapper = _layout_of([entry for entry in files if entry.is_image] or files)
    images = [entry for entry in files if len(entry.folders) == depth]
    odd = [
        entry
        for entry in files
        if entry.folders[: depth - 1] != wrapper[: len(entry.folders)]
        or len(entry.folders) > depth
        or (len(entry.folders) < depth and entry.is_image)
    ]
    if depth not in (1, 2) or odd:
        raise InvalidArchive(
            f"entry {shown((odd or images)[0].path)} does not fit: {_LAYOUT}, and at most one folder around them"
        )
    for entry in images:
        if not entry.named:
            raise _unknown_charset(entry.name)
    _reject_empty_classes(entries, {entry.folders for entry in images})
    return images


def _layout_of(images: Sequence[_Entry]) -> tuple[int, tuple[str, ...]]:
    """Return how deep most of the images lie, and the folder around the class folders of most of these, if any."""
    depths = Counter(len(entry.folders) for entry in images)
    depth = min(depths, key=lambda each: (-depths[each], each))
    wrappers = Counter(entry.folders[: depth - 1] for entry in images if len(entry.folders) == depth > 0)
    return depth, wrappers.most_common(1)[0][0] if wrappers else ()


def _reject_empty_classes(entries: Sequence[_Entry], classes: set[tuple[str, ...]]) -> None:
    depth = len(next(iter(classes)))
    for entry in entries:
        folder = entry.folders
        if len(folder) == depth and folder not in classes and not is_junk(folder):
            raise InvalidArchive(
                f"the class folder {shown(folder[-1])} has no images; add some, or leave the folder out"
            )


def _check(images: Sequence[_Entry], settings: Settings) -> None:
    if len(images) > settings.max_files:
        raise ArchiveTooLarge(
            f"the archive has {len(images)} files; allowed: at most {settings.max_files} (ANOLE_MAX_FILES); send the "
            "other files in further requests, which extend the version"
        )
    unpacked_bytes = sum(image.info.file_size for image in images)
    max_bytes = ARCHIVE_GROWTH * settings.adapt_body_bytes
    if unpacked_bytes > max_bytes:
        raise ArchiveTooLarge(
            f"the archive has {unpacked_bytes} bytes after decompression; allowed: at most {max_bytes}, which is "
            f"{ARCHIVE_GROWTH} times ANOLE_ADAPT_BODY_BYTES"
        )
    for image in images:
        if image.info.flag_bits & _ENCRYPTED or image.info.compress_type not in _COMPRESSIONS:
            raise InvalidArchive(
                f"entry {shown(image.path)} is encrypted, or compressed by another method than deflate"
            )


def _read(opened: zipfile.ZipFile, image: _Entry, settings: Settings) -> Upload:
    """Read an entry, but only one byte more than allowed, because the size in its header may be wrong."""
    with opened.open(image.info) as stream:
        return Upload(clean_file_name(image.path), stream.read(settings.file_bytes + 1))
