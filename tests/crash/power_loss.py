"""Records one run of steps call by call, and checks every disk that a power loss during the run could leave.

This recording covers the blobs. The catalog is taken as of the latest commit that had returned. The recordings of
``recording.py`` cover SQLite's files too, but need strace.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from service.store.open_store import CATALOG_FILE
from tests.crash.calls import watch
from tests.crash.campaign import Findings, check_moments, process
from tests.crash.checks import Event
from tests.crash.disk import Call, Disk, Tree, fingerprint
from tests.crash.run import Moment, Run, perform_run
from tests.crash.stores import STORE, in_folder


@dataclass(frozen=True, slots=True)
class Committed:
    """The catalog as of a commit that has returned."""

    catalog: bytes


@dataclass(frozen=True, slots=True)
class Durable:
    """What was on the disk, and what had been reported, when the recording began."""

    tree: Tree
    events: tuple[Event, ...]


Entry = Call | Event | Committed | Durable


class Recorder:
    """Records calls below `root`, commits and events, in order."""

    def __init__(self, root: Path) -> None:
        self.entries: list[Entry] = []
        self._root = root
        self._catalog = root / STORE / CATALOG_FILE

    def before(self, _name: str, *_arguments: Any) -> None:
        """Ignore it: the call has not been made yet."""

    def after(self, name: str, result: Any, *arguments: Any) -> None:
        """Record the call."""
        if name == "open":
            self._record("create", arguments[0])
            if arguments[1] & os.O_TRUNC:
                self._record("truncate", arguments[0])
        elif name == "write":
            self._record("write", _opened(arguments[0]), at=arguments[1], content=arguments[2])
        elif name == "fsync":
            self._record("sync", _opened(arguments[0]))
        elif name in ("replace", "rename"):
            self._record("rename", arguments[0], to=self._below(arguments[1]))
        elif name in ("unlink", "mkdir", "rmdir"):
            self._record(name, arguments[0])
        elif name == "commit":
            self._record_catalog()

    def _record(self, kind: str, path: Any, **more: Any) -> None:
        if Path(path).is_relative_to(self._root):
            self.entries.append(Call(kind, self._below(path), **more))

    def _below(self, path: Any) -> str:
        below = str(Path(path).relative_to(self._root))
        return "" if below == "." else below

    def _record_catalog(self) -> None:
        if self._catalog.stat().st_size == 0:  # a reader's commit, before there are tables
            return
        with closing(sqlite3.connect(self._catalog)) as connection:
            self.entries.append(Committed(connection.serialize()))


def _opened(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


def run_and_record(run: Run, pipe: Connection) -> None:
    """Run to the end and send the recording."""
    recorder = Recorder(run.location.folder.parent)
    perform_run(run, recorder.entries.append, lambda: watch(recorder))
    pipe.send(recorder.entries)
    pipe.close()


def record_run(kinds: Sequence[str], *, fault: str | None = None) -> list[Entry]:
    """Return the recording of a run on a new store."""
    with (
        in_folder() as location,
        process(run_and_record, Run(location, {}, kinds=tuple(kinds), fault=fault)) as (_, pipe),
    ):
        entries: list[Entry] = pipe.recv()
        return entries


def simulate_power_loss(entries: Sequence[Entry], *, seed: int = 0, share: float = 1.0) -> Findings:
    """Lose power after every entry and check every different disk that may remain; stop at the first problem.

    With a `share` below 1, only that share of the disks is checked, a random selection.
    """
    return check_moments(_possible_disks(entries, np.random.default_rng(seed), share))


def _possible_disks(entries: Sequence[Entry], generator: np.random.Generator, share: float) -> Iterator[Moment]:
    """Yield every different disk with the events before it; first those at the moment of an event."""
    known: set[bytes] = set()
    for events_first in (True, False):
        disk, events, catalog = Disk(), [], None
        for entry in entries:
            if isinstance(entry, Call):
                disk.do(entry)
            elif isinstance(entry, Durable):
                disk, events = Disk(entry.tree), list(entry.events)
            elif isinstance(entry, Event):
                events.append(entry)
            else:
                catalog = entry.catalog
            for outcome in (
                disk.possible_trees(generator, share) if isinstance(entry, Event) or not events_first else ()
            ):
                tree = _with_catalog(outcome, catalog)
                found = fingerprint(tree, len(events))
                if found not in known:
                    known.add(found)
                    yield tree, list(events)


def _with_catalog(tree: Tree, catalog: bytes | None) -> Tree:
    return tree if catalog is None or STORE not in tree else {**tree, f"{STORE}/{CATALOG_FILE}": catalog}
