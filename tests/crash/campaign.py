"""Kills processes that use a store, at random moments and at every write, and checks what each kill leaves."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from service.store.open_store import StoreLocation
from tests.crash import run as runs
from tests.crash.checks import Event, check_store
from tests.crash.disk import write_tree
from tests.crash.model import State
from tests.crash.run import Moment, Run
from tests.crash.stores import STORE, NewStore, in_folder, temporary_folder
from tests.processes import PROCESSES

KILLED: Final = -signal.SIGKILL
KILLS_PER_STORE: Final = 40
"""After this many kills the next process creates a new store, and may be killed while it does."""
MAX_EVENTS: Final = 9
MAX_DELAY_S: Final = 0.015


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of a campaign: the number of kills, the number of steps acknowledged before them, and the problems."""

    kills: int
    acknowledged: int
    problems: tuple[str, ...]


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """Start a process with all modules imported; yield it and our end of a pipe to it. It is killed on leaving."""
    ours, theirs = PROCESSES.Pipe()
    with temporary_folder() as folder:
        running = PROCESSES.Process(target=runs.run_in, args=(folder, target, *arguments, theirs))
        running.start()
        theirs.close()
        try:
            yield running, ours
        finally:
            running.kill()
            running.join()
            ours.close()
            running.close()


def received(pipe: Connection) -> Iterator[Event]:
    """Yield the events that the process reports until it ends."""
    try:
        while True:
            yield pipe.recv()
    except (EOFError, ConnectionResetError):
        return


def killed_after(run: Run, events_before_kill: int, delay_s: float) -> list[Event]:
    """Kill a process some time after it has reported a number of events, and return all its events."""
    with process(runs.run_and_report, run) as (running, pipe):
        events = list(itertools.islice(received(pipe), events_before_kill))
        running.join(delay_s)
        running.kill()
        events += received(pipe)
        running.join()
        return _check_exit(running.exitcode, events)


def _check_exit(code: int, events: list[Event]) -> list[Event]:
    """Return the events. Raises RuntimeError if the process ended in another way and reported no failure."""
    if code != KILLED and not any(event.failure for event in events):
        raise RuntimeError(f"a process that should have been killed ended with {code} after the event {events[-1:]}")
    return events


def kill_at_random(kills: int, *, seed: int, new_store: NewStore = in_folder, fault: str | None = None) -> Findings:
    """Kill processes at random moments, many on one store; stop at the first problem."""
    generator = np.random.default_rng(seed)
    acknowledged = 0
    for start in range(0, kills, KILLS_PER_STORE):
        with new_store() as location:
            state: State = {}
            for kill in range(start, min(start + KILLS_PER_STORE, kills)):
                run = Run(location, state, first=kill * 1000, seed=int(generator.integers(1 << 32)), fault=fault)
                events_before_kill, delay_s = (
                    int(generator.integers(MAX_EVENTS)),
                    float(generator.uniform(0, MAX_DELAY_S)),
                )
                events = killed_after(run, events_before_kill, delay_s)
                acknowledged += sum(event.result is not None for event in events)
                checked = check_store(run.location, state, events)
                if checked.problems:
                    return Findings(kill + 1, acknowledged, checked.problems)
                state = checked.state
    return Findings(kills, acknowledged, ())


def kill_at_every_call(kinds: Sequence[str], *, safe_steps: int | None = None, fault: str | None = None) -> Findings:
    """Check what a kill before each writing call of a process leaves, in a random order; stop at the first problem."""
    with in_folder() as location:
        run = Run(location, {}, kinds=tuple(kinds), fault=fault, safe_steps=safe_steps)
        with process(runs.run_and_copy, run) as (_, pipe):
            calls, moments = pipe.recv()
    order = np.random.default_rng(0).permutation(len(moments))
    found = check_moments(moments[index] for index in order)
    return found if found.problems else replace(found, kills=calls)


def check_moments(moments: Iterable[Moment]) -> Findings:
    """Check the store of each moment; stop at the first problem."""
    tried = acknowledged = 0
    for tree, events in moments:
        tried, acknowledged = tried + 1, acknowledged + sum(event.result is not None for event in events)
        with temporary_folder() as root:
            write_tree(tree, root)
            problems = check_store(StoreLocation(root / STORE), {}, events).problems
        if problems:
            return Findings(tried, acknowledged, problems)
    return Findings(tried, acknowledged, ())
