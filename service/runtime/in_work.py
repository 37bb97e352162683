"""Notes of what a process has in work, which outlive it. Knows digests, and not what they are of.

Each process notes in a file of its own through a memory map: a note costs no system call, and what was noted stays
when the process is killed. The file is locked as long as its process lives, so whoever can lock it knows that the
process is dead. A process that ends in order removes its file; one whose machine lost power may leave nothing, which
is as good: the power was to blame.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

DIGEST_BYTES: Final = 32
_SLOTS: Final = 512
_FREE, _WORKING, _SUSPECTED = range(3)
_SLOT_BYTES: Final = 1 + DIGEST_BYTES
_SUFFIX: Final = ".notes"


class InWork:
    """What this process has in work. Safe from any number of threads.

    Args:
        folder: of the notes of all processes; made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._file = _locked_file(folder)
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._guard = threading.Lock()
        self._free = list(range(_SLOTS))

    @contextmanager
    def noted(self, digests: Sequence[bytes], *, suspected: bool = False) -> Iterator[None]:
        """Note digests for the length of the block; those for which there is no room are not noted.

        Args:
            digests: of `DIGEST_BYTES` each.
            suspected: the process is expected to die of it: then it alone is to blame if it does.
        """
        with self._guard:
            slots = [self._free.pop() for _ in digests[: len(self._free)]]
        for slot, digest in zip(slots, digests, strict=False):
            at = slot * _SLOT_BYTES
            self._map[at + 1 : at + _SLOT_BYTES] = digest
            self._map[at] = _SUSPECTED if suspected else _WORKING
        try:
            yield
        finally:
            for slot in slots:
                self._map[slot * _SLOT_BYTES] = _FREE
            with self._guard:
                self._free += slots

    def close(self) -> None:
        """Remove the notes; nothing may be in work any more."""
        self._path.unlink(missing_ok=True)
        self._map.close()
        self._file.close()


@dataclass(frozen=True, slots=True)
class Left:
    """What a dead process had in work; where anything in it was suspected, that alone.

    Attributes:
        digests: of what was in work.
        suspected: whether the process was expected to die of it.
    """

    digests: tuple[bytes, ...]
    suspected: bool


def left_behind(folder: Path) -> Iterator[Left]:
    """What dead processes had in work; a process is told of once, when what it left has been used."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # its process ended in order, or another one was faster
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if _is_at(file, path):
                yield _blamed(file.read())
                path.unlink()


def _blamed(notes: bytes) -> Left:
    by_state: dict[int, list[bytes]] = {_WORKING: [], _SUSPECTED: []}
    for at in range(0, len(notes) - _SLOT_BYTES + 1, _SLOT_BYTES):
        by_state.setdefault(notes[at], []).append(notes[at + 1 : at + _SLOT_BYTES])
    suspects = by_state[_SUSPECTED]
    return Left(tuple(suspects or by_state[_WORKING]), bool(suspects))


def _locked_file(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file, locked before anybody could take its process for dead."""
    while True:
        path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        file = path.open("x+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):
                file.close()
                continue
            file.write(bytes(_SLOTS * _SLOT_BYTES))
        except BaseException:
            file.close()
            raise
        return path, file


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
