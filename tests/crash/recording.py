"""Records a run with strace, system call by system call: also what SQLite does to its files, which ``calls.py`` misses.

The recording begins where the safe steps of the run end; what is in the store's folder then counts as durable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.crash import run as runs
from tests.crash.campaign import process
from tests.crash.checks import Event
from tests.crash.disk import Call, read_tree
from tests.crash.power_loss import Durable, Entry
from tests.crash.run import MARKS, Run
from tests.crash.stores import temporary_folder
from tests.crash.system_calls import attached

RECORDED: Final = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "unlinkat", "mkdir", "rmdir",
)  # fmt: skip
IGNORED: Final = (MARKS, "-reserve", "-shm")
"""Ends of the names of files whose content does not matter after a power loss."""

_MAX_BYTES: Final = 1 << 20
"""Of one write. strace prints no more; SQLite and the blobs write less."""
_SECTOR_BYTES: Final = 512
"""A disk writes a sector completely or not at all."""
_UNFINISHED: Final = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>")
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_CALL: Final = re.compile(r"(\w+)\((.*)\) += (\d+)")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_HANDLE: Final = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)>")


def record_files(run: Run) -> list[Entry]:
    """Return the recording of a run on a new store in a folder.

    Raises:
        StraceUnavailable: strace is not installed, or may not be used.
    """
    root = run.location.folder.parent
    with temporary_folder() as logs, process(runs.run_and_mark, run) as (running, pipe):
        safe = pipe.recv()
        tree = {path: content for path, content in read_tree(root).items() if not path.endswith(IGNORED)}
        names = f"trace={','.join(RECORDED)}"
        with attached(running.pid, "-o", str(logs / "log"), "-y", "-xx", "-s", str(_MAX_BYTES), "-e", names):
            pipe.send(None)
            events: list[Event] = pipe.recv()
            running.join()
        recorder = _FileCalls(root, events[safe:])
        return [Durable(tree, tuple(events[:safe])), *recorder.entries((logs / "log").read_text().splitlines())]


class _FileCalls:
    """Translates the lines of strace. The events are those that the marks stand for."""

    def __init__(self, root: Path, events: Sequence[Event]) -> None:
        self._root = root
        self._events = iter(events)
        self._positions: dict[str, int] = {}

    def entries(self, lines: Sequence[str]) -> Iterator[Entry]:
        """Yield the calls in the order in which they returned, and the events between them."""
        unfinished: dict[str, str] = {}
        for line in lines:
            if begun := _UNFINISHED.fullmatch(line):
                unfinished[begun[1]] = begun[2]
            elif resumed := _RESUMED.fullmatch(line):
                yield from self._entries_of(unfinished.pop(resumed[1]) + resumed[2])
            else:
                yield from self._entries_of(line.partition(" ")[2].strip())

    def _entries_of(self, call: str) -> Iterator[Entry]:
        found = _CALL.match(call)
        if found is None:  # it failed
            return
        name, arguments, result = found[1], found[2], int(found[3])
        texts = [_decoded(text) for text in _TEXT.findall(arguments)]
        handle, opened = "", ""
        if described := _HANDLE.match(arguments):
            handle, opened = described[1], _decoded(described[2]).decode()
        if name == "openat":
            yield from self._opened(texts[0].decode(), arguments, str(result))
        elif name in ("write", "pwrite64"):
            at = int(arguments.rpartition(",")[2]) if name == "pwrite64" else self._positions.get(handle, 0)
            if name == "write":
                self._positions[handle] = at + result
            yield from self._written(opened, at, texts[0][:result])
        elif name in ("fsync", "fdatasync", "ftruncate"):
            length = int(arguments.rpartition(",")[2]) if name == "ftruncate" else 0
            yield from self._call("truncate" if name == "ftruncate" else "sync", opened, at=length)
        elif name == "unlinkat":
            kind = "rmdir" if "AT_REMOVEDIR" in arguments else "unlink"
            yield from self._call(kind, Path(opened) / texts[0].decode())
        else:  # rename, unlink, mkdir or rmdir
            to = self._below(Path(texts[1].decode())) if name == "rename" else ""
            yield from self._call(name, texts[0].decode(), to=to)

    def _opened(self, path: str, arguments: str, handle: str) -> Iterator[Entry]:
        self._positions[handle] = 0
        if "O_CREAT" in arguments:
            yield from self._call("create", path)
        if "O_TRUNC" in arguments:
            yield from self._call("truncate", path)

    def _written(self, path: str, at: int, content: bytes) -> Iterator[Entry]:
        """Yield a write, in two halves if it is larger than a sector, or the event that a mark stands for."""
        if path == str(self._root / MARKS):
            yield next(self._events)
            return
        middle = len(content) // 2 if len(content) > _SECTOR_BYTES else 0
        if middle:
            yield from self._call("write", path, at=at, content=content[:middle])
        yield from self._call("write", path, at=at + middle, content=content[middle:])

    def _call(self, kind: str, path: str | Path, *, to: str = "", at: int = 0, content: bytes = b"") -> Iterator[Entry]:
        path = Path(path)
        if path.is_relative_to(self._root) and not path.name.endswith(IGNORED):
            yield Call(kind, self._below(path), to=to, at=at, content=content)

    def _below(self, path: Path) -> str:
        below = str(path.relative_to(self._root))
        return "" if below == "." else below


def _decoded(text: str) -> bytes:
    """Decode what strace prints with ``-xx``."""
    return bytes.fromhex(text.replace("\\x", ""))
