"""Files of a dataset, read from a folder or a .zip."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from models.errors import DatasetUnavailable

_JUNK: Final = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "__macosx", "@eadir"}
)
"""Files and folders that operating systems and file servers add, in lower case."""

_UTF8_NAME: Final = 0x800
_UNICODE_PATH: Final = 0x7075
"""The extra field of an entry that repeats its name in UTF-8."""
_UNIX: Final = frozenset({3, 19})
"""Systems, Unix and macOS, whose names are in UTF-8 also without the flag that says so."""

MAX_FILE_BYTES = 64 * 1024 * 1024


def list_files(location: Path) -> list[str]:
    """Sorted paths, with forward slashes, of the files in a folder or .zip, without hidden files and OS metadata.

    Raises:
        DatasetUnavailable: `location` does not exist, or is neither a folder nor a .zip.
    """
    if location.is_dir():
        paths = [path.relative_to(location).as_posix() for path in location.rglob("*") if path.is_file()]
    elif location.is_file():
        with _open_zip(location) as archive:
            paths = list(_entries(archive))
    else:
        raise DatasetUnavailable(f"{location} does not exist; pass a folder or a .zip file")
    return sorted(path for path in paths if not is_junk(PurePosixPath(path).parts))


def read_files(
    location: Path, max_file_bytes: int = MAX_FILE_BYTES, only: Container[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files that `list_files` lists, in order.

    Args:
        location: a folder or a .zip.
        max_file_bytes: maximum size of a file, checked before it is read or decompressed.
        only: paths to read; None reads all.

    Raises:
        DatasetUnavailable: as `list_files`, or a file is damaged or too large.
    """
    paths = [path for path in list_files(location) if only is None or path in only]
    if location.is_dir():
        for path in paths:
            _check_size(location / path, (location / path).stat().st_size, max_file_bytes)
            yield path, (location / path).read_bytes()
    else:
        with _open_zip(location) as archive:
            entries = _entries(archive)
            for path in paths:
                _check_size(f"{location}: {path}", entries[path].file_size, max_file_bytes)
                yield path, archive.read(entries[path])


def archive_key(location: Path) -> str:
    """Cache key of the current content of a folder or .zip: 16 hex digits.

    A .zip is hashed. For a folder, the paths, sizes and modification times of its files are.
    """
    if location.is_file():
        with location.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    digest = hashlib.sha256()
    for path in list_files(location):
        status = (location / path).stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def is_junk(steps: Iterable[str]) -> bool:
    """Whether a path, as folders and file, is hidden or was added by an operating system."""
    return any(step.startswith(".") or step.lower() in _JUNK for step in steps)


def entry_name(entry: zipfile.ZipInfo) -> str | None:
    """Return the path of an archive's entry, with forward slashes, or None if its character set is not known.

    The archive declares the character set by a flag or by an extra field. Without them, names from Windows are in the
    code page of the machine, which is not known here. Some programs for Windows separate folders by backslashes.
    """
    name = _declared_name(entry)
    return None if name is None else with_slashes(name)


def with_slashes(path: str) -> str:
    """Return a path with forward slashes. One that has some may have backslashes in its names."""
    return path if "/" in path else path.replace("\\", "/")


def _declared_name(entry: zipfile.ZipInfo) -> str | None:
    if entry.flag_bits & _UTF8_NAME:
        return entry.orig_filename
    raw = entry.orig_filename.encode("cp437")  # as zipfile has decoded it
    try:
        declared = _unicode_path(entry.extra, raw)
        if declared is not None:
            return declared.decode("utf-8")
        return raw.decode("utf-8" if entry.create_system in _UNIX else "ascii")
    except UnicodeDecodeError:
        return None


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """Return the name from the extra field for Unicode paths, if the field belongs to this name."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        field = extra[position + 4 : position + 4 + size]
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BL", 1, zlib.crc32(raw)):
            return field[5:]
        position += 4 + size
    return None


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files by path."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        path = entry_name(entry)
        if path is None:
            raise DatasetUnavailable(
                f"{archive.filename} has a name in a character set that it does not declare ({entry.orig_filename!r}); "
                "make the archive with names in UTF-8 (7-Zip: -mcu=on)"
            )
        if not entry.is_dir():
            entries[path] = entry
    return entries


@contextmanager
def _open_zip(location: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(location) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, UnicodeError) as error:
        raise DatasetUnavailable(f"{location} cannot be read as a .zip ({error}); pass an undamaged one") from error


def _check_size(name: object, size_bytes: int, max_file_bytes: int) -> None:
    if size_bytes > max_file_bytes:
        raise DatasetUnavailable(f"{name} has {size_bytes} bytes; at most {max_file_bytes} per file are allowed")
