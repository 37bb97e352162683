"""A disk that may lose everything that was not synced when the power fails, and every state that it may be left in.

This is the strictest reading of POSIX: syncing a file makes its content durable but not its name; syncing a folder
makes its names durable but not the content of its files; unsynced changes may survive or not, each name and each half
of a write separately, in any combination (see "All File Systems Are Not Created Equal", Pillai et al., OSDI 2014). A
rename survives completely or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import PurePath
from typing import Final

import numpy as np

ALL_OF_UP_TO: Final = 6
"""So many unsynced changes are tried in all combinations; of more, a choice."""
DRAWN: Final = 8


@dataclass(frozen=True, slots=True)
class Call:
    """What a process asked of the disk.

    Attributes:
        kind: "mkdir", "create", "write", "truncate", "sync", "rename", "unlink" or "rmdir".
        path: of the file or folder, below the root.
        to: the new path, of a rename.
        at: the offset in bytes, of a write; the length, of a truncate.
        content: of a write.
    """

    kind: str
    path: str
    to: str = ""
    at: int = 0
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class _Change:
    """A change that was not synced: of the names in a folder, or of the content of a file."""

    folder: str = ""
    removed: str = ""
    added: str = ""
    node: int | str = 0
    at: int = 0
    content: bytes | None = None


Tree = Mapping[str, bytes | None]
"""What lies below the root, by path; None for a folder."""


class Disk:
    """What is durable, what is not yet, and what that may come to."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, int | str]] = {"": {}}
        self._content: dict[int, bytes] = {}
        self._now: dict[str, int] = {}
        self._loose: list[_Change] = []

    def do(self, call: Call) -> None:
        """Take a call; one on a path that is not known changes nothing."""
        if call.kind == "sync":
            self._sync(call.path)
        elif call.kind in ("mkdir", "create"):
            self._add(call)
        elif call.kind in ("rename", "unlink", "rmdir"):
            self._rename(call)
        elif call.path in self._now:
            content = call.content if call.kind == "write" else None
            self._loose.append(_Change(node=self._now[call.path], at=call.at, content=content))

    def outcomes(self, generator: np.random.Generator) -> Iterator[Tree]:
        """What may lie there if the power is lost now; of many loose changes a choice, drawn from `generator`."""
        for chosen in _choices(len(self._loose), generator):
            yield self._after([change for change, there in zip(self._loose, chosen, strict=True) if there])

    def _add(self, call: Call) -> None:
        folder, name = _split(call.path)
        if call.kind == "mkdir":
            self._names.setdefault(call.path, {})
            self._loose.append(_Change(folder, added=name, node=call.path))
        elif call.path not in self._now:
            node = len(self._content) + 1
            self._content[node] = b""
            self._now[call.path] = node
            self._loose.append(_Change(folder, added=name, node=node))

    def _rename(self, call: Call) -> None:
        folder, name = _split(call.path)
        node = self._now.pop(call.path, 0)
        if node == 0 and call.kind != "rmdir":
            return
        if call.kind == "rename":
            self._now[call.to] = node
        self._loose.append(_Change(folder, removed=name, added=_split(call.to)[1], node=node))

    def _sync(self, path: str) -> None:
        mine = [
            change
            for change in self._loose
            if (change.folder == path and (change.added or change.removed) if path in self._names else
                not change.added and not change.removed and change.node == self._now.get(path))
        ]  # fmt: skip
        self._loose = [change for change in self._loose if change not in mine]
        _apply(mine, self._names, self._content)

    def _after(self, changes: Sequence[_Change]) -> Tree:
        names = {folder: dict(held) for folder, held in self._names.items()}
        content = dict(self._content)
        _apply(changes, names, content)
        tree: dict[str, bytes | None] = {}

        def grow(folder: str) -> None:
            for name, node in names[folder].items():
                path = f"{folder}/{name}" if folder else name
                tree[path] = content[node] if isinstance(node, int) else None
                if isinstance(node, str):
                    grow(node)

        grow("")
        return tree


def _apply(changes: Sequence[_Change], names: dict[str, dict[str, int | str]], content: dict[int, bytes]) -> None:
    for change in changes:
        if change.added or change.removed:
            names[change.folder].pop(change.removed, None)
            if change.added:
                names[change.folder][change.added] = change.node
        elif isinstance(change.node, int):
            before = content[change.node]
            if change.content is None:
                content[change.node] = before[: change.at].ljust(change.at, b"\0")
            else:
                end = change.at + len(change.content)
                content[change.node] = before[: change.at].ljust(change.at, b"\0") + change.content + before[end:]


def _choices(count: int, generator: np.random.Generator) -> Iterator[Sequence[bool]]:
    if count <= ALL_OF_UP_TO:
        yield from product((False, True), repeat=count)
        return
    for i in range(count + 1):
        yield [j < i for j in range(count)]
    for i in range(count):
        yield [j != i for j in range(count)]
        yield [j == i for j in range(count)]
    yield from (generator.random((DRAWN, count)) < 0.5).tolist()


def _split(path: str) -> tuple[str, str]:
    parent = str(PurePath(path).parent)
    return ("" if parent == "." else parent), PurePath(path).name
