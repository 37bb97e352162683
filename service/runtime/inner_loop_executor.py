"""Where inner loops are run: one by one on the cores of a CPU, or gathered into one batch on a GPU.

Whatever is in work at the same time comes here. It knows inner loops by what runs them, and neither clients nor
versions.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from torch import Tensor

from models.adaptation.adapt import Adapted, InnerLoopInput, OnGroupStep
from models.errors import AdaptationDiverged
from service.runtime.job_control import JobControl
from service.runtime.predict_batcher import PredictBatcher

Result = Adapted | AdaptationDiverged
Run = Callable[[Sequence[InnerLoopInput], OnGroupStep], Sequence[Result]]
"""Runs loops, those of one recipe together if that is what the device is good at, and tells of each step."""

GATHER_S: Final = 0.005
GATHERED: Final = 256


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of loops.

    Attributes:
        results: one a loop, in order.
        batched_with: how many other loops went through the net together with each; sums then round in another order.
    """

    results: Sequence[Result]
    batched_with: int


class InnerLoopExecutor(Protocol):
    """Runs the loops of several adaptations at the same time."""

    def run(self, loops: Sequence[InnerLoopInput], ticket: JobControl) -> Ran:
        """Run one adaptation's loops; the first is the version's. Blocks.

        Raises:
            Whatever the ticket is stopped with, and what running raises; no other adaptation notices.
        """
        ...

    def close(self) -> None:
        """Let the threads go."""
        ...


class ThreadedExecutor(InnerLoopExecutor):
    """A thread a core, each with one loop at a time, so that a loop gets the bits that it would get alone.

    A free thread goes to the adaptation that has the fewest threads at the moment: a lone one gets every core, and a
    slow one keeps none of the others from having its share.

    Args:
        run: runs loops.
        threads: loops at the same time. They are started when they are first needed.
    """

    def __init__(self, run: Run, threads: int) -> None:
        self._run = run
        self._wanted = threads
        self._threads: list[threading.Thread] = []
        self._open: list[_Piece] = []
        self._change = threading.Condition()
        self._closed = False

    def run(self, loops: Sequence[InnerLoopInput], ticket: JobControl) -> Ran:
        """See `InnerLoopExecutor.run`."""
        ticket.planned(sum(loop.recipe.steps for loop in loops))
        piece = _Piece([partial(self._one, loop, ticket, own=not place) for place, loop in enumerate(loops)])
        with self._change:
            while len(self._threads) < self._wanted:
                thread = threading.Thread(target=self._work, name="inner-loops", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._open.append(piece)
            self._change.notify_all()
        piece.ended.wait()
        if piece.error is not None:
            raise piece.error
        return Ran([piece.results[place] for place in range(len(loops))], batched_with=0)

    def close(self) -> None:
        """See `InnerLoopExecutor.close`; what is in work is ended first."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _one(self, loop: InnerLoopInput, ticket: JobControl, *, own: bool) -> Result:
        def watch(_: range, __: int, losses: Tensor) -> None:
            ticket.step(float(losses[0]) if own else None)

        ticket.check()
        return self._run([loop], watch)[0]

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            piece, place, call = taken
            try:
                piece.results[place] = call()
            except BaseException as error:  # noqa: BLE001 - it is raised where the loops came from
                piece.error = piece.error or error
            with self._change:
                piece.in_work -= 1
                if piece.error is not None:
                    piece.waiting.clear()
                if not piece.waiting and not piece.in_work:
                    piece.ended.set()
            del taken, piece, call

    def _next(self) -> tuple[_Piece, int, Callable[[], Result]] | None:
        with self._change:
            while True:
                self._open = [piece for piece in self._open if piece.waiting]
                if self._open:
                    piece = min(self._open, key=lambda piece: piece.in_work)
                    piece.in_work += 1
                    return piece, *piece.waiting.popleft()
                if self._closed:
                    return None
                self._change.wait()


class _Piece:
    """One adaptation's loops: those that wait, how many are in work, what came of the others."""

    def __init__(self, calls: Sequence[Callable[[], Result]]) -> None:
        self.waiting = deque(enumerate(calls))
        self.in_work = 0
        self.results: dict[int, Result] = {}
        self.error: BaseException | None = None
        self.ended = threading.Event()


@dataclass(slots=True)
class _Asked:
    loops: Sequence[InnerLoopInput]
    ticket: JobControl
    stopped: Exception | None = field(default=None)


class BatchedExecutor(InnerLoopExecutor):
    """Loops that come within a few milliseconds go through the net together, whatever their classes and samples.

    Loops of different recipes run one recipe after another. When a batch fails as a whole, for want of memory say, each
    of its adaptations is tried alone.

    Args:
        run: runs loops.
        gather_s: how long to wait for company.
        most: loops of one batch.
    """

    def __init__(self, run: Run, gather_s: float = GATHER_S, most: int = GATHERED) -> None:
        self._run = run
        self._batcher: PredictBatcher[_Asked, Ran] = PredictBatcher(self._answers, most, threads=1, gather_s=gather_s)

    def run(self, loops: Sequence[InnerLoopInput], ticket: JobControl) -> Ran:
        """See `InnerLoopExecutor.run`."""
        ticket.planned(sum(loop.recipe.steps for loop in loops))
        return self._batcher.submit(_Asked(loops, ticket), len(loops)).result()

    def close(self) -> None:
        """See `InnerLoopExecutor.close`."""
        self._batcher.close()

    def _answers(self, asked: Sequence[_Asked]) -> Iterator[tuple[int, Ran | BaseException]]:
        recipes = list(dict.fromkeys(loop.recipe for one in asked for loop in one.loops))
        places = [(number, place) for number, one in enumerate(asked) for place in range(len(one.loops))]
        places.sort(key=lambda own: recipes.index(asked[own[0]].loops[own[1]].recipe))
        loops = [asked[number].loops[place] for number, place in places]
        together = Counter(loop.recipe for loop in loops)
        watch = partial(_watch, asked, places)
        results = dict(zip(places, self._run(loops, watch), strict=True))
        for number, one in enumerate(asked):
            own = [results[number, place] for place in range(len(one.loops))]
            yield number, one.stopped or Ran(own, together[one.loops[0].recipe] - 1)


def _watch(asked: Sequence[_Asked], places: Sequence[tuple[int, int]], tasks: range, _: int, losses: Tensor) -> None:
    """Tell each adaptation of its loops' steps; one that is stopped goes on unheard as long as others are with it."""
    followed = any(one.ticket.followed for one in asked)
    known: Sequence[float | None] = losses.tolist() if followed else [None] * len(tasks)  # a GPU is waited for
    for (number, place), loss in zip(places[tasks.start : tasks.stop], known, strict=True):
        one = asked[number]
        try:
            if one.stopped is None:
                one.ticket.step(None if place else loss)
        except Exception as error:  # noqa: BLE001 - it is this adaptation's answer
            one.stopped = error
    stopped = [one.stopped for one in asked if one.stopped is not None]
    if len(stopped) == len(asked):
        raise stopped[0]
