"""Runs of steps on a store, in processes that are killed: random steps without end, or given kinds of steps.

A process reports each step before it begins and right after it ends, so the events show what was acknowledged when the
process was killed. The functions run in processes forked from one that has imported this module.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from service.store.catalog import sqlite
from service.store.open_store import StoreLocation, open_store
from tests.crash.calls import watch
from tests.crash.checks import Event
from tests.crash.disk import Tree, fingerprint, read_tree
from tests.crash.faults import apply_fault
from tests.crash.model import State, Step, states_during
from tests.crash.steps import CLIENTS, IN_FOLDERS_ONLY, KINDS, choose, draw, perform

Next = Callable[[State, int], Step | None]
"""Chooses the next step, given the state and the number of the step; None skips that number."""

MARKS: Final = "marks"
"""File beside the folder of a store: a traced process writes a byte to it at each event."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a process does.

    Attributes:
        location: of its store.
        state: the state of the store at the start.
        first: the number of its first step.
        kinds: the kinds of its steps, in order; if empty, steps are random and do not end.
        seed: seed of random steps.
        fault: name of a fault to apply first, see ``faults.py``.
        safe_steps: number of first steps in which it is not killed; None: it may be killed while it opens its store.
        wal: use SQLite's write-ahead log instead of its rollback journal, whatever the version of SQLite.
    """

    location: StoreLocation
    state: State
    first: int = 0
    kinds: tuple[str, ...] = ()
    seed: int = 0
    fault: str | None = None
    safe_steps: int | None = None
    wal: bool = False

    def steps(self) -> Iterator[Next]:
        """Yield the function that chooses each step."""
        if self.kinds:
            yield from (lambda state, i, kind=kind: choose(kind, state, i, CLIENTS[0]) for kind in self.kinds)
            return
        generator = np.random.default_rng(self.seed)
        kinds = [kind for kind in KINDS if self.location.blobs_url is None or kind not in IN_FOLDERS_ONLY]
        yield from itertools.repeat(lambda state, i: draw(generator, state, i, kinds))


def perform_run(run: Run, report: Callable[[Event], Any], start: Callable[[], None] = lambda: None) -> None:
    """Perform the steps and report each before and after it; a step that fails ends the run.

    `start` is called where the safe steps end.
    """
    torch.set_num_threads(1)
    if run.fault is not None:
        apply_fault(run.fault)
    if run.wal:
        sqlite.FIRST_VERSION_SAFE_WITH_WAL = (3, 0, 0)  # type: ignore[misc]
    state = run.state
    if run.safe_steps is None:
        start()
    with open_store(run.location) as store:
        for i, decide in enumerate(run.steps()):
            if i == run.safe_steps:
                start()
            step = decide(state, run.first + i)
            if step is None:
                continue
            report(Event(step))
            try:
                result = perform(store, run.location, step)
            except Exception as error:  # noqa: BLE001 - any failure must be reported
                report(Event(step, failure=f"{type(error).__name__}: {error}"))
                return
            report(Event(step, result))
            state = [state, *states_during(state, step, result)][-1]


def run_in(folder: Path, target: Callable[..., None], *arguments: Any) -> None:
    """Run with temporary files in a folder that the caller deletes, because a killed process leaves them behind."""
    tempfile.tempdir = str(folder)
    target(*arguments)


def run_and_report(run: Run, pipe: Connection) -> None:
    """Run until another process kills this one."""
    perform_run(run, pipe.send)
    pipe.close()


Moment = tuple[Tree, list[Event]]
"""A folder at one moment, and the events before it."""


class CopyAtEachCall:
    """Copies the folder into memory before each writing call, and after each commit.

    A copy is what a kill at that moment leaves: a killed process does nothing more, and the system keeps what the
    process wrote. Moments that do not differ are copied once.
    """

    def __init__(self, folder: Path, events: list[Event]) -> None:
        self.moments: list[Moment] = []
        self.calls = 0
        self._folder, self._events = folder, events
        self._known: set[bytes] = set()

    def before(self, _name: str, *_arguments: Any) -> None:
        self.calls += 1
        self.copy()

    def after(self, name: str, *_arguments: Any) -> None:
        if name == "commit":
            self.before(name)

    def copy(self) -> None:
        """Copy the folder, if this moment differs from all before."""
        tree = read_tree(self._folder)
        known = fingerprint(tree, len(self._events))
        if known not in self._known:
            self._known.add(known)
            self.moments.append((tree, list(self._events)))


def run_and_copy(run: Run, pipe: Connection) -> None:
    """Run to the end; send the number of writing calls, and what a kill at any of them would have left."""
    events: list[Event] = []
    copier = CopyAtEachCall(run.location.folder.parent, events)
    perform_run(run, events.append, lambda: watch(copier))
    copier.copy()
    pipe.send((copier.calls, copier.moments))
    pipe.close()


def run_and_wait(run: Run, pipe: Connection) -> None:
    """Run; where the safe steps end, send None and wait for a message, so that strace can attach."""

    def wait() -> None:
        pipe.send(None)
        pipe.recv()

    perform_run(run, pipe.send, wait)
    pipe.close()


def run_and_mark(run: Run, pipe: Connection) -> None:
    """Run with strace attached from where the safe steps end, and send all events; each writes a byte to `MARKS`.

    Where the safe steps end, send the number of events so far and wait for a message.
    """
    events: list[Event] = []
    with (run.location.folder.parent / MARKS).open("ab", buffering=0) as marks:

        def report(event: Event) -> None:
            events.append(event)
            marks.write(b".")

        def wait() -> None:
            pipe.send(len(events))
            pipe.recv()

        perform_run(run, report, wait)
    pipe.send(events)
    pipe.close()
