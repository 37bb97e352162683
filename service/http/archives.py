"""Reads zip archives with one folder per class. Sizes are limited, nothing is written and no name is used as a path.

Entries are not checked to be images. The decoder rejects them if they are not.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Final

from models.errors import AnoleError
from service.errors import NoSamples
from service.http.problems import ArchiveTooLarge, InvalidArchive
from service.http.uploads import check_size
from service.settings import Settings
from service.usecases.samples import Upload

_LAYOUT: Final = "an archive has one folder per class, with the images of the class in it"
_IGNORED: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_COMPRESSIONS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 0x1
_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, ValueError)
"""What zipfile raises for invalid offsets, sizes and names."""
_CENTRAL_DIRECTORY_ENTRIES: Final = 4096
"""Maximum number of entries, including ignored ones."""


def unpack(archive: Upload, settings: Settings) -> tuple[tuple[Upload, ...], tuple[str, ...]]:
    """Return the images, and as their labels the names of their folders.

    One folder around the class folders is allowed. Hidden files and files of operating systems are ignored.

    Raises:
        InvalidArchive: not a zip file, encrypted, damaged, or without class folders.
        ArchiveTooLarge: too many entries, or too many bytes after decompression.
        FileTooLarge: an entry is too large.
        NoSamples: it has no files.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
            entries = _entries(opened, settings)
            labels = _labels([entry.filename for entry in entries])
            uploads = tuple(check_size(_read(opened, entry, settings), settings) for entry in entries)
    except AnoleError:
        raise  # our own errors are more precise than those of zipfile
    except _UNREADABLE as error:
        raise InvalidArchive(f"archive {archive.name!r} is not a readable zip file: {error}") from error
    return uploads, labels


def _entries(opened: zipfile.ZipFile, settings: Settings) -> list[zipfile.ZipInfo]:
    listed = opened.infolist()
    if not all(entry.filename for entry in listed):  # zipfile cuts names at a NUL
        raise InvalidArchive(f"an entry of the archive has no name; {_LAYOUT}")
    entries = [entry for entry in listed if not entry.is_dir() and not _ignored(entry.filename)]
    if len(listed) > _CENTRAL_DIRECTORY_ENTRIES or len(entries) > settings.max_files:
        raise ArchiveTooLarge(f"the archive has {len(entries)} files; allowed: at most {settings.max_files}")
    if not entries:
        raise NoSamples(f"the archive has no files; {_LAYOUT}")
    unpacked_bytes = sum(entry.file_size for entry in entries)
    if unpacked_bytes > settings.archive_bytes:
        raise ArchiveTooLarge(
            f"the archive has {unpacked_bytes} bytes after decompression; allowed: at most {settings.archive_bytes}"
        )
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _COMPRESSIONS:
            raise InvalidArchive(f"entry {entry.filename!r} is encrypted, or compressed by another method than deflate")
    return entries


def _read(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, settings: Settings) -> Upload:
    """Read an entry, but only one byte more than allowed, because the size in its header may be wrong."""
    with opened.open(entry) as stream:
        return Upload(entry.filename, stream.read(settings.file_bytes + 1))


def _labels(names: list[str]) -> tuple[str, ...]:
    """Return the folder of each entry. All must have the same depth, with at most one folder around them."""
    parts = [name.split("/") for name in names]
    depths = {len(steps) for steps in parts}
    if len(depths) != 1 or not depths <= {2, 3} or (depths == {3} and len({steps[0] for steps in parts}) > 1):
        odd = next((name for name, steps in zip(names, parts, strict=True) if len(steps) not in {2, 3}), names[-1])
        raise InvalidArchive(f"entry {odd!r} does not fit: {_LAYOUT}, and at most one folder around them")
    return tuple(steps[-2] for steps in parts)


def _ignored(name: str) -> bool:
    return any(step.startswith(".") or step in _IGNORED for step in name.split("/"))
