"""Files of a dataset, read from a folder or a .zip."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from models.errors import DatasetUnavailable

_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
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
            paths = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    else:
        raise DatasetUnavailable(f"{location} does not exist; pass a folder or a .zip file")
    return sorted(path for path in paths if not _is_junk(PurePosixPath(path)))


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
            for path in paths:
                _check_size(f"{location}: {path}", archive.getinfo(path).file_size, max_file_bytes)
                yield path, archive.read(path)


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


def _is_junk(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part.lower() in _JUNK for part in path.parts)


@contextmanager
def _open_zip(location: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(location) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise DatasetUnavailable(f"{location} cannot be read as a .zip ({error}); pass an undamaged one") from error


def _check_size(name: object, size_bytes: int, max_file_bytes: int) -> None:
    if size_bytes > max_file_bytes:
        raise DatasetUnavailable(f"{name} has {size_bytes} bytes; at most {max_file_bytes} per file are allowed")
