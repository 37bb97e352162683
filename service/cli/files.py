"""Files that commands write, and their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from models.atomic_files import write_temporary
from service.client import InvalidInput

_LONGEST_NAME_BYTES: Final = 255
"""What most file systems take."""


def save(path: Path, content: bytes) -> None:
    """Write a file, and its folder if necessary. Raises InvalidInput if that fails."""
    make_folder(path.parent)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise _cannot_write(path, error) from error


def save_new(paths: Iterable[Path], content: bytes) -> Path:
    """Write a file under the first path that does not exist, and return that path.

    Raises:
        InvalidInput: the file cannot be written.
    """
    for path in paths:
        make_folder(path.parent)
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_write(path, error) from error
        return path
    raise InvalidInput("all names for the file are taken")


def make_folder(folder: Path) -> None:
    """Make a folder unless it exists. Raises InvalidInput if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def require_writable(path: Path) -> None:
    """Make the folder of a file that takes long to make, and try whether files can be written there.

    Raises:
        InvalidInput: no file can be written there.
    """
    make_folder(path.parent)
    try:
        write_temporary(path.parent, b"", durable=False).unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error
    if path.is_dir():
        raise InvalidInput(f"cannot write {path}: it is a folder; name a file")


def file_name(text: str, ending: str = "") -> str:
    """Return a name from outside as one that leads out of no folder and that every system can store.

    Args:
        text: the name. It is cut if it is too long.
        ending: what follows it, such as `-2.png`. It is kept.
    """
    name = "".join("_" if letter in '/\\:*?"<>|' or not letter.isprintable() else letter for letter in text)
    name = f"_{name}" if name.startswith(".") or not name else name
    return name.encode()[: _LONGEST_NAME_BYTES - len(ending.encode())].decode(errors="ignore") + ending


def numbered(text: str, ending: str = "", suffix: str = "") -> Iterator[str]:
    """Yield file names without end: `text`, `ending` and `suffix`, then the same with a number before the suffix."""
    yield file_name(text, f"{ending}{suffix}")
    for number in count(2):
        yield file_name(text, f"{ending}-{number}{suffix}")


def different_names(texts: Iterable[str]) -> dict[str, str]:
    """Return a file name for each text, all different, also where a file system ignores case.

    A text that is a file name already gets that name, so that others are numbered on.
    """
    wanted = sorted(set(texts))
    unchanged = {text.casefold(): text for text in reversed(wanted) if file_name(text) == text}
    names = {text: text for text in unchanged.values()}
    taken = set(unchanged)
    for text in wanted:
        if text not in names:
            names[text] = next(name for name in numbered(text) if name.casefold() not in taken)
            taken.add(names[text].casefold())
    return names


def _cannot_write(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(f"cannot write {path}: {error.strerror or error}")
