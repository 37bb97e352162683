"""Appends to files, or replaces them, so that no half a line stays behind."""

from __future__ import annotations

import os
from pathlib import Path


def append_whole(path: Path, content: bytes, header: bytes = b"") -> None:
    """Append all of the content, or nothing.

    Args:
        path: the file. It is created if it does not exist.
        content: what to append.
        header: what comes before the content if the file is new or empty.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        added = content if end else header + content
        if added and file.write(added) != len(added):  # one call, so that an interrupt leaves no half a line
            file.truncate(end)
            raise OSError(f"{path} takes only a part of a line; is the disk full?")


def replace_whole(path: Path, content: bytes) -> None:
    """Replace a file by another one with this content. If the power fails, there is the old one or the new one.

    Raises:
        OSError: the new file cannot be written. The old one stays.
    """
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
