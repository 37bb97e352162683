"""Simulates a disk: what a power loss may leave of changes that were not synced.

This is the strictest reading of POSIX: syncing a file makes its content durable but not its name; syncing a folder
makes its names durable but not the content of its files; unsynced changes may survive or not, each name and each half
of a write separately, in any combination (see "All File Systems Are Not Created Equal", Pillai et al., OSDI 2014). A
rename within a folder survives completely or not at all; one into another folder is two changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePath
from typing import Final

import numpy as np

MAX_EXHAUSTIVE: Final = 6
"""Up to this many unsynced changes are tried in all combinations; of more, a selection."""
RANDOM_CHOICES: Final = 8


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a process to the file system.

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
    """An unsynced change of the names in a folder, or of the content of a file."""

    folder: str = ""
    removed: str = ""
    added: str = ""
    node: int | str = 0
    at: int = 0
    content: bytes | None = None


Tree = Mapping[str, bytes | None]
"""The content of each file below the root, by path; None for a folder."""


def read_tree(root: Path) -> Tree:
    """Read everything below the root."""
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def write_tree(tree: Tree, root: Path) -> None:
    """Write everything below the root, which is empty."""
    for path in sorted(tree):
        content = tree[path]
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def fingerprint(tree: Tree, events: int) -> bytes:
    """Return a digest of the content and of the number of events before it."""
    digest = hashlib.blake2b(str(events).encode(), digest_size=16)
    for path in sorted(tree):
        content = tree[path]
        digest.update(f"\0{path}\0{-1 if content is None else len(content)}\0".encode() + (content or b""))
    return digest.digest()


class Disk:
    """Tracks what is durable and what is not yet. At the beginning, all of `tree` is durable."""

    def __init__(self, tree: Tree | None = None) -> None:
        self._names: dict[str, dict[str, int | str]] = {"": {}}
        self._content: dict[int, bytes] = {}
        self._now: dict[str, int] = {}
        self._unsynced: list[_Change] = []
        for path, content in sorted((tree or {}).items()):
            self.do(Call("mkdir" if content is None else "create", path))
            if content is not None:
                self.do(Call("write", path, content=content))
        _apply(self._unsynced, self._names, self._content)
        self._unsynced = []

    def do(self, call: Call) -> None:
        """Apply a call; a call on an unknown path changes nothing."""
        if call.kind == "sync":
            self._sync(call.path)
        elif call.kind in ("mkdir", "create"):
            self._add(call)
        elif call.kind in ("rename", "unlink", "rmdir"):
            self._rename(call)
        elif call.path in self._now:
            content = call.content if call.kind == "write" else None
            self._unsynced.append(_Change(node=self._now[call.path], at=call.at, content=content))

    def possible_trees(self, generator: np.random.Generator, share: float = 1.0) -> Iterator[Tree]:
        """Yield what may remain after a power loss now: what is durable, and what has any of the unsynced changes too.

        Of many unsynced changes only a selection is tried. A `share` below 1 yields what is durable and a random share.
        """
        for number, chosen in enumerate(_choices(len(self._unsynced), generator)):
            if number == 0 or share == 1.0 or generator.random() < share:
                yield self._after([change for change, there in zip(self._unsynced, chosen, strict=True) if there])

    def _add(self, call: Call) -> None:
        folder, name = _split(call.path)
        if call.kind == "mkdir":
            self._names.setdefault(call.path, {})
            self._unsynced.append(_Change(folder, added=name, node=call.path))
        elif call.path not in self._now:
            node = len(self._content) + 1
            self._content[node] = b""
            self._now[call.path] = node
            self._unsynced.append(_Change(folder, added=name, node=node))

    def _rename(self, call: Call) -> None:
        folder, name = _split(call.path)
        node = self._now.pop(call.path, 0)
        if node == 0 and call.kind != "rmdir":
            return
        target, added = _split(call.to)
        if call.kind == "rename":
            self._now[call.to] = node
        if call.kind == "rename" and target != folder:
            self._unsynced += [_Change(target, added=added, node=node), _Change(folder, removed=name)]
        else:
            self._unsynced.append(_Change(folder, removed=name, added=added, node=node))

    def _sync(self, path: str) -> None:
        mine = [
            change
            for change in self._unsynced
            if (change.folder == path and (change.added or change.removed) if path in self._names else
                not change.added and not change.removed and change.node == self._now.get(path))
        ]  # fmt: skip
        self._unsynced = [change for change in self._unsynced if change not in mine]
        _apply(mine, self._names, self._content)

    def _after(self, changes: Sequence[_Change]) -> Tree:
        names = {folder: dict(aliased) for folder, aliased in self._names.items()}
        content = dict(self._content)
        _apply(changes, names, content)
        tree: dict[str, bytes | None] = {}

        def add_folder(folder: str) -> None:
            for name, node in names[folder].items():
                path = f"{folder}/{name}" if folder else name
                tree[path] = content[node] if isinstance(node, int) else None
                if isinstance(node, str):
                    add_folder(node)

        add_folder("")
        return tree


def _apply(changes: Sequence[_Change], names: dict[str, dict[str, int | str]], content: dict[int, bytes]) -> None:
    changed: dict[int, bytearray] = {}
    for change in changes:
        if change.added or change.removed:
            names[change.folder].pop(change.removed, None)
            if change.added:
                names[change.folder][change.added] = change.node
        elif isinstance(change.node, int):
            file = changed.setdefault(change.node, bytearray(content[change.node]))
            file.extend(bytes(max(0, change.at - len(file))))
            if change.content is None:
                del file[change.at :]
            else:
                file[change.at : change.at + len(change.content)] = change.content
    content.update((node, bytes(file)) for node, file in changed.items())


def _choices(count: int, generator: np.random.Generator) -> Iterator[Sequence[bool]]:
    if count <= MAX_EXHAUSTIVE:
        yield from product((False, True), repeat=count)
        return
    for i in range(count + 1):
        yield [j < i for j in range(count)]
    for i in range(count):
        yield [j != i for j in range(count)]
        yield [j == i for j in range(count)]
    yield from (generator.random((RANDOM_CHOICES, count)) < 0.5).tolist()


def _split(path: str) -> tuple[str, str]:
    parent = str(PurePath(path).parent)
    return ("" if parent == "." else parent), PurePath(path).name
