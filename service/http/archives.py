"""A zip archive of class folders to labelled uploads, within bounds; nothing is written and no name is used as a path.

It knows zip, not images: entries that are no images are refused where they are decoded.
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
from service.usecases.uploads import Upload

_LAYOUT: Final = "an archive holds one folder a class, with the images of that class in it"
_IGNORED: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_COMPRESSIONS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 0x1
_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, ValueError)
"""What zipfile raises for offsets, sizes and names that cannot be; a negative offset is a ValueError."""
_CENTRAL_DIRECTORY_ENTRIES: Final = 4096
"""Entries of any kind, ignored ones too."""


def unpack(archive: Upload, settings: Settings) -> tuple[tuple[Upload, ...], tuple[str, ...]]:
    """Return the images and their labels: the name of the folder each one lies in.

    One folder around the class folders is accepted. Hidden files and what operating systems add are ignored.

    Raises:
        InvalidArchive: not a zip, encrypted, damaged, or not laid out as class folders.
        ArchiveTooLarge: too many entries, or too many bytes once unpacked.
        FileTooLarge: one entry is too large.
        NoSamples: no image in it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
            entries = _entries(opened, settings)
            labels = _labels([entry.filename for entry in entries])
            uploads = tuple(check_size(_read(opened, entry, settings), settings) for entry in entries)
    except AnoleError:
        raise  # what is said about its layout, in other words than zipfile's
    except _UNREADABLE as error:
        raise InvalidArchive(f"archive {archive.name!r} is not a readable zip file: {error}") from error
    return uploads, labels


def _entries(opened: zipfile.ZipFile, settings: Settings) -> list[zipfile.ZipInfo]:
    listed = opened.infolist()
    if not all(entry.filename for entry in listed):  # cut at a zero byte, it may begin with one
        raise InvalidArchive(f"an entry of the archive has no name; {_LAYOUT}")
    entries = [entry for entry in listed if not entry.is_dir() and not _ignored(entry.filename)]
    if len(listed) > _CENTRAL_DIRECTORY_ENTRIES or len(entries) > settings.max_files:
        raise ArchiveTooLarge(f"the archive has {len(entries)} files; at most {settings.max_files} are allowed")
    if not entries:
        raise NoSamples(f"the archive has no files; {_LAYOUT}")
    unpacked_bytes = sum(entry.file_size for entry in entries)
    if unpacked_bytes > settings.archive_bytes:
        raise ArchiveTooLarge(
            f"the archive holds {unpacked_bytes} bytes once unpacked; at most {settings.archive_bytes} are allowed"
        )
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _COMPRESSIONS:
            raise InvalidArchive(f"entry {entry.filename!r} is encrypted or compressed otherwise than by deflate")
    return entries


def _read(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, settings: Settings) -> Upload:
    """Read one entry, never more of it than a file may have plus one byte, whatever its header says."""
    with opened.open(entry) as stream:
        return Upload(entry.filename, stream.read(settings.file_bytes + 1))


def _labels(names: list[str]) -> tuple[str, ...]:
    """The folder of each entry: at one depth throughout, and below at most one folder around all of them."""
    parts = [name.split("/") for name in names]
    depths = {len(steps) for steps in parts}
    if len(depths) != 1 or not depths <= {2, 3} or (depths == {3} and len({steps[0] for steps in parts}) > 1):
        odd = next((name for name, steps in zip(names, parts, strict=True) if len(steps) not in {2, 3}), names[-1])
        raise InvalidArchive(f"entry {odd!r} does not fit: {_LAYOUT}, and at most one folder around them")
    return tuple(steps[-2] for steps in parts)


def _ignored(name: str) -> bool:
    return any(step.startswith(".") or step in _IGNORED for step in name.split("/"))
