"""The lives of processes that die while they use a store: drawn step by step without end, or a given list of kinds.

What is about to be done is told before it, and what it came to right after it, so that whoever hears of both knows
what was acknowledged when the process died. The functions run in processes forked from one that has imported this.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.store.open_store import open_embedded
from tests.crash.book import Book, Step, passed
from tests.crash.calls import watch
from tests.crash.judge import Said
from tests.crash.seeded import seed_bug
from tests.crash.steps import CLIENTS, choose, draw, perform

Next = Callable[[Book, int], Step | None]
"""Which step comes next, in view of the book; None for none of that number."""


@dataclass(frozen=True, slots=True)
class Life:
    """How a process lives.

    Attributes:
        folder: of its store.
        book: what the store says when it begins.
        first: the number of its first step.
        kinds: the kinds of its steps in order; without any they are drawn, and there is no end.
        seed: what they are drawn from.
        bug: the name of a fault to begin with, see ``seeded.py``.
        calm: so many first steps in which it does not die; None: it may die while it opens its store.
    """

    folder: Path
    book: Book
    first: int = 0
    kinds: tuple[str, ...] = ()
    seed: int = 0
    bug: str | None = None
    calm: int | None = None

    def steps(self) -> Iterator[Next]:
        """What decides upon each step in turn."""
        if self.kinds:
            yield from (lambda book, i, kind=kind: choose(kind, book, i, CLIENTS[0]) for kind in self.kinds)
            return
        generator = np.random.default_rng(self.seed)
        yield from itertools.repeat(lambda book, i: draw(generator, book, i))


def live(life: Life, tell: Callable[[Said], Any], begin: Callable[[], None] = lambda: None) -> None:
    """Live, and tell of every step before and after it; a step that fails ends it.

    `begin` is called where the calm ends.
    """
    torch.set_num_threads(1)
    if life.bug is not None:
        seed_bug(life.bug)
    book = life.book
    if life.calm is None:
        begin()
    with open_embedded(life.folder) as store:
        for i, decide in enumerate(life.steps()):
            if i == life.calm:
                begin()
            step = decide(book, life.first + i)
            if step is None:
                continue
            tell(Said(step))
            try:
                result = perform(store, life.folder, step)
            except Exception as error:  # noqa: BLE001 - whatever it is, the judge must hear of it
                tell(Said(step, failure=f"{type(error).__name__}: {error}"))
                return
            tell(Said(step, result))
            book = [book, *passed(book, step, result)][-1]


def live_and_tell(life: Life, pipe: Connection) -> None:
    """Live until killed from outside."""
    live(life, pipe.send)
    pipe.close()


class Dying:
    """Kills its own process right before the write-like call of a number (from 1), or right after a commit."""

    def __init__(self, call: int) -> None:
        self._left = call

    def before(self, _name: str, *_arguments: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, name: str, *_arguments: Any) -> None:
        if name == "commit":
            self.before(name)


def live_and_die_at(life: Life, call: int, pipe: Connection) -> None:
    """Live until that call."""
    live(life, pipe.send, lambda: watch(Dying(call)))
    pipe.close()


def live_and_wait(life: Life, pipe: Connection) -> None:
    """Live; where the calm ends, say nothing more than that and wait to be told to go on, so that a tracer can come."""

    def wait() -> None:
        pipe.send(None)
        pipe.recv()

    live(life, pipe.send, wait)
    pipe.close()
