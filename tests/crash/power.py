"""Records one run of steps call by call, and checks every disk that a power loss during the run could leave.

The recording covers the blobs. The catalog is taken as of the latest commit that had returned: that commits survive a
power loss is SQLite's own guarantee for ``synchronous=EXTRA`` and is not tested here.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.store.open_store import CATALOG_FILE
from tests.crash.calls import watch
from tests.crash.campaign import Found, a_folder, process
from tests.crash.disk import Call, Disk, Tree
from tests.crash.judge import Said, judge
from tests.crash.life import Life, live

STORE: Final = "store"


@dataclass(frozen=True, slots=True)
class Committed:
    """The catalog as of a commit that has returned."""

    catalog: bytes


Note = Call | Said | Committed


class Recorder:
    """Notes what is done below `root`, and what is said, in order."""

    def __init__(self, root: Path) -> None:
        self.notes: list[Note] = []
        self._root = root
        self._catalog = root / STORE / CATALOG_FILE

    def before(self, _name: str, *_arguments: Any) -> None:
        """Nothing has been done yet."""

    def after(self, name: str, result: Any, *arguments: Any) -> None:
        """Note it."""
        if name == "open":
            self._note("create", arguments[0])
            if arguments[1] & os.O_TRUNC:
                self._note("truncate", arguments[0])
        elif name == "write":
            self._note("write", _opened(arguments[0]), at=arguments[1], content=arguments[2])
        elif name == "fsync":
            self._note("sync", _opened(arguments[0]))
        elif name in ("replace", "rename"):
            self._note("rename", arguments[0], to=self._below(arguments[1]))
        elif name in ("unlink", "mkdir", "rmdir"):
            self._note(name, arguments[0])
        elif name == "commit":
            self._note_catalog()

    def _note(self, kind: str, path: Any, **more: Any) -> None:
        if Path(path).is_relative_to(self._root):
            self.notes.append(Call(kind, self._below(path), **more))

    def _below(self, path: Any) -> str:
        below = str(Path(path).relative_to(self._root))
        return "" if below == "." else below

    def _note_catalog(self) -> None:
        if self._catalog.stat().st_size == 0:  # of a reader, before there are tables
            return
        with closing(sqlite3.connect(self._catalog)) as connection:
            self.notes.append(Committed(connection.serialize()))


def _opened(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


def live_and_record(life: Life, pipe: Connection) -> None:
    """Live to the end, and send what was noted."""
    recorder = Recorder(life.folder.parent)
    live(life, recorder.notes.append, lambda: watch(recorder))
    pipe.send(recorder.notes)
    pipe.close()


def recorded(kinds: Sequence[str], *, bug: str | None = None) -> list[Note]:
    """What a life on a new store does."""
    with a_folder() as root, process(live_and_record, Life(root / STORE, {}, kinds=tuple(kinds), bug=bug)) as (_, pipe):
        notes: list[Note] = pipe.recv()
        return notes


def lose_power(notes: Sequence[Note], *, seed: int = 0) -> Found:
    """Lose power after every note, and judge every different disk that may be left; stop at the first wrong."""
    tried, said = 0, []
    for tree, heard in _left_behind(notes, np.random.default_rng(seed)):
        tried, said = tried + 1, heard
        with a_folder() as root:
            _lay_out(tree, root)
            wrong = judge(root / STORE, {}, heard).wrong
        if wrong:
            return Found(tried, _acknowledged(said), wrong)
    return Found(tried, _acknowledged(said), ())


def _left_behind(notes: Sequence[Note], generator: np.random.Generator) -> Iterator[tuple[Tree, list[Said]]]:
    """Every different disk, with what was said by then; first those at the moments at which something was said."""
    known: set[bytes] = set()
    for at_words in (True, False):
        disk, said, catalog = Disk(), [], None
        for note in notes:
            if isinstance(note, Call):
                disk.do(note)
            elif isinstance(note, Said):
                said.append(note)
            else:
                catalog = note.catalog
            for outcome in disk.outcomes(generator) if isinstance(note, Said) or not at_words else ():
                tree = _with_catalog(outcome, catalog)
                mark = _mark(tree, len(said))
                if mark not in known:
                    known.add(mark)
                    yield tree, list(said)


def _with_catalog(tree: Tree, catalog: bytes | None) -> Tree:
    return tree if catalog is None or STORE not in tree else {**tree, f"{STORE}/{CATALOG_FILE}": catalog}


def _mark(tree: Tree, said: int) -> bytes:
    digest = hashlib.blake2b(str(said).encode(), digest_size=16)
    for path in sorted(tree):
        content = tree[path]
        digest.update(f"\0{path}\0{-1 if content is None else len(content)}\0".encode() + (content or b""))
    return digest.digest()


def _lay_out(tree: Tree, root: Path) -> None:
    for path in sorted(tree):
        content = tree[path]
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def _acknowledged(said: Sequence[Said]) -> int:
    return sum(line.result is not None for line in said)
