"""Kills processes that use a store, at random moments and at every write, and checks the store after each kill."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.crash import life as lives
from tests.crash.book import Book
from tests.crash.judge import Said, judge
from tests.crash.life import Life

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.crash.warm"])

IN_MEMORY: Final = Path("/dev/shm")
KILLED: Final = -signal.SIGKILL
KILLS_A_STORE: Final = 40
"""After so many deaths a new store is begun, in the middle of whose making the next process may die."""
MOST_LINES: Final = 9
LONGEST_S: Final = 0.015


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a campaign: how many deaths, how many steps were acknowledged by then, what was wrong."""

    deaths: int
    acknowledged: int
    wrong: tuple[str, ...]


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """A process forked from the one that has imported everything, and our end of the pipe to it; killed on leaving."""
    ours, theirs = PROCESSES.Pipe()
    running = PROCESSES.Process(target=target, args=(*arguments, theirs))
    running.start()
    theirs.close()
    try:
        yield running, ours
    finally:
        running.kill()
        running.join()
        ours.close()
        running.close()


@contextmanager
def a_folder() -> Iterator[Path]:
    """An empty folder, in memory where that can be had: a killed process leaves the system's own memory alone."""
    with tempfile.TemporaryDirectory(prefix="anole-crash-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def heard(pipe: Connection) -> Iterator[Said]:
    """All that the process said until it ended."""
    try:
        while True:
            yield pipe.recv()
    except (EOFError, ConnectionResetError):
        return


def killed_after(life: Life, lines: int, then_s: float) -> list[Said]:
    """Let a process live until it has said so many lines, and that long after; kill it, and return all that it said."""
    with process(lives.live_and_tell, life) as (running, pipe):
        said = list(itertools.islice(heard(pipe), lines))
        running.join(then_s)
        running.kill()
        said += heard(pipe)
        running.join()
        return _ended(running.exitcode, said)


def _ended(code: int, said: list[Said], *allowed: int) -> list[Said]:
    """What was said, unless the process came to another end than it should have without a word about it."""
    if code not in (KILLED, *allowed) and not any(line.failure for line in said):
        raise RuntimeError(f"a process that should have been killed ended with {code}, after saying {said[-1:]}")
    return said


def killed_at(life: Life, call: int) -> tuple[bool, list[Said]]:
    """Let a process live up to that write-like call; whether it died of it, and all that it said."""
    with process(lives.live_and_die_at, life, call) as (running, pipe):
        said = list(heard(pipe))
        running.join()
        return running.exitcode == KILLED, _ended(running.exitcode, said, 0)


def kill_at_random(kills: int, *, seed: int, bug: str | None = None) -> Found:
    """Kill so many processes at random moments, many on one store; stop at the first that leaves something wrong."""
    generator = np.random.default_rng(seed)
    acknowledged = 0
    for begin in range(0, kills, KILLS_A_STORE):
        with a_folder() as folder:
            book: Book = {}
            for death in range(begin, min(begin + KILLS_A_STORE, kills)):
                life = Life(folder, book, first=death * 1000, seed=int(generator.integers(1 << 32)), bug=bug)
                lines, then_s = int(generator.integers(MOST_LINES)), float(generator.uniform(0, LONGEST_S))
                said = killed_after(life, lines, then_s)
                acknowledged += sum(line.result is not None for line in said)
                verdict = judge(life.folder, book, said)
                if verdict.wrong:
                    return Found(death + 1, acknowledged, verdict.wrong)
                book = verdict.book
    return Found(kills, acknowledged, ())


def kill_at_every_call(kinds: Sequence[str], *, calm: int | None = None, bug: str | None = None) -> Found:
    """Kill a process before each of its write-like calls in turn, each on a new store; stop at the first wrong.

    The first process is not killed: what is wrong with the store of one that lived to its end is no matter of deaths.
    """
    call, acknowledged, died = 0, 0, True
    while died:
        with a_folder() as folder:
            life = Life(folder / "store", {}, kinds=tuple(kinds), bug=bug, calm=calm)
            died, said = killed_at(life, call)
            acknowledged += sum(line.result is not None for line in said)
            verdict = judge(life.folder, {}, said)
            if verdict.wrong:
                return Found(call, acknowledged, verdict.wrong)
        died |= call == 0
        call += 1
    return Found(call - 2, acknowledged, ())
