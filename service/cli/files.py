"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

from service.client import InvalidInput


def save(path: Path, content: bytes) -> None:
    """Write a file, and its folder if necessary. Raises InvalidInput if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror or error}") from error


def file_name(text: str) -> str:
    """Return a name from outside as one that leads out of no folder and that every system can store."""
    name = "".join("_" if letter in '/\\:*?"<>|' or not letter.isprintable() else letter for letter in text)
    return f"_{name}" if name.startswith(".") or not name else name
