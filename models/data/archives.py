"""Files of a data set, from an unpacked folder or straight from a .zip, as (path inside, content).

It refuses to know what the files mean; it only keeps order, sizes and the litter of file managers in check.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from models.errors import DatasetUnavailable

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
MAX_FILE_BYTES = 64 * 1024 * 1024


def read_files(location: Path, max_file_bytes: int = MAX_FILE_BYTES) -> Iterator[tuple[str, bytes]]:
    """Yields (path with forward slashes, content) in the order of the paths, hidden files and litter left out.

    Args:
        location: a folder, or a file in zip format.
        max_file_bytes: a larger file ends the reading, before it is unpacked.

    Raises:
        DatasetUnavailable: nothing is there, it is neither folder nor zip, or a file in it is damaged or too large.
    """
    if location.is_dir():
        yield from _folder_files(location, max_file_bytes)
    elif location.is_file():
        yield from _zip_files(location, max_file_bytes)
    else:
        raise DatasetUnavailable(f"there is nothing at {location}; give a folder or a .zip file")


def archive_key(location: Path) -> str:
    """A name for the present content of a folder or .zip, for caches: 16 hex digits.

    A .zip is hashed whole; of a folder, the paths, sizes and times of its files.
    """
    if location.is_file():
        with location.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    digest = hashlib.sha256()
    for path in _folder_paths(location):
        status = path.stat()
        digest.update(f"{path.relative_to(location).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def is_litter(path: PurePosixPath) -> bool:
    """Whether a path is hidden or left behind by a file manager rather than part of a data set."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in path.parts)


def _folder_paths(folder: Path) -> list[Path]:
    inside = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return [inside[name] for name in sorted(inside) if not is_litter(PurePosixPath(name))]


def _folder_files(folder: Path, max_file_bytes: int) -> Iterator[tuple[str, bytes]]:
    for path in _folder_paths(folder):
        _check_size(str(path), path.stat().st_size, max_file_bytes)
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def _zip_files(archive: Path, max_file_bytes: int) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = (entry for entry in opened.infolist() if not entry.is_dir())
            for entry in sorted(entries, key=lambda entry: entry.filename):
                if is_litter(PurePosixPath(entry.filename)):
                    continue
                _check_size(f"{archive}: {entry.filename}", entry.file_size, max_file_bytes)
                yield entry.filename, opened.read(entry)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise DatasetUnavailable(f"{archive} cannot be read as a .zip ({error}); give an undamaged one") from error


def _check_size(name: str, size_bytes: int, max_file_bytes: int) -> None:
    if size_bytes > max_file_bytes:
        raise DatasetUnavailable(f"{name} has {size_bytes} bytes; at most {max_file_bytes} a file are allowed")
