"""Runs the inner loops of concurrent adaptations: spread over the cores of a CPU, or as one batch on a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from torch import Tensor

from models.adaptation.adapt import Adapted, InnerLoopInput, OnGroupStep
from models.adaptation.executor import FairExecutor
from models.errors import AdaptationDiverged
from service.runtime.adapt_queue import JobControl
from service.runtime.predict_batcher import PredictBatcher

Result = Adapted | AdaptationDiverged
Run = Callable[[Sequence[InnerLoopInput], OnGroupStep], Sequence[Result]]
"""Runs inner loops and reports every step; loops of one recipe may run as one batch."""

GATHER_S: Final = 0.005
MAX_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class InnerLoopResults:
    """Results of one adaptation's inner loops.

    Attributes:
        results: one per loop, in order.
        batched_with: how many other loops were in the same batch; the batch size changes how sums round.
    """

    results: Sequence[Result]
    batched_with: int


class InnerLoopExecutor(Protocol):
    """Runs the inner loops of several adaptations at the same time."""

    def run(self, loops: Sequence[InnerLoopInput], control: JobControl) -> InnerLoopResults:
        """Run one adaptation's loops and block until they end. The first loop is the version's.

        Raises:
            Any error that `control` was stopped with, or that a loop raises. Other adaptations are not affected.
        """
        ...

    def close(self) -> None:
        """Finish the running loops and stop the threads."""
        ...


class ThreadedExecutor(InnerLoopExecutor):
    """One loop per thread, so that a loop's result is bit-identical to running it alone; see `FairExecutor`.

    Args:
        run: runs loops.
        threads: loops that run at the same time.
    """

    def __init__(self, run: Run, threads: int) -> None:
        self._run = run
        self._executor = FairExecutor(threads)

    def run(self, loops: Sequence[InnerLoopInput], control: JobControl) -> InnerLoopResults:
        """See `InnerLoopExecutor.run`."""
        control.plan(sum(loop.recipe.steps for loop in loops))
        calls = [partial(self._run_one, loop, control, report_loss=index == 0) for index, loop in enumerate(loops)]
        return InnerLoopResults(self._executor.run(calls), batched_with=0)

    def close(self) -> None:
        """See `InnerLoopExecutor.close`."""
        self._executor.close()

    def _run_one(self, loop: InnerLoopInput, control: JobControl, *, report_loss: bool) -> Result:
        def on_step(_: range, __: int, losses: Tensor) -> None:
            control.step(float(losses[0]) if report_loss else None)

        control.check()
        return self._run([loop], on_step)[0]


@dataclass(slots=True)
class _Request:
    loops: Sequence[InnerLoopInput]
    control: JobControl
    stopped: Exception | None = field(default=None)


class BatchedExecutor(InnerLoopExecutor):
    """Loops that arrive within a few milliseconds run as one batch, whatever their classes and samples.

    Loops of different recipes run one recipe after another. If a whole batch fails, for example for lack of memory,
    each adaptation is retried alone.

    Args:
        run: runs loops.
        gather_s: how long to wait for further loops.
        max_batch: loops of one batch.
    """

    def __init__(self, run: Run, gather_s: float = GATHER_S, max_batch: int = MAX_BATCH) -> None:
        self._run = run
        self._batcher: PredictBatcher[_Request, InnerLoopResults] = PredictBatcher(
            self._run_batch, max_batch, threads=1, gather_s=gather_s
        )

    def run(self, loops: Sequence[InnerLoopInput], control: JobControl) -> InnerLoopResults:
        """See `InnerLoopExecutor.run`."""
        control.plan(sum(loop.recipe.steps for loop in loops))
        return self._batcher.submit(_Request(loops, control), len(loops)).result()

    def close(self) -> None:
        """See `InnerLoopExecutor.close`."""
        self._batcher.close()

    def _run_batch(self, requests: Sequence[_Request]) -> Iterator[tuple[int, InnerLoopResults | BaseException]]:
        recipes = list(dict.fromkeys(loop.recipe for request in requests for loop in request.loops))
        order = [(number, index) for number, request in enumerate(requests) for index in range(len(request.loops))]
        order.sort(key=lambda place: recipes.index(requests[place[0]].loops[place[1]].recipe))
        loops = [requests[number].loops[index] for number, index in order]
        batch_sizes = Counter(loop.recipe for loop in loops)
        results = dict(zip(order, self._run(loops, partial(_on_step, requests, order)), strict=True))
        for number, request in enumerate(requests):
            of_request = [results[number, index] for index in range(len(request.loops))]
            batched_with = batch_sizes[request.loops[0].recipe] - 1
            yield number, request.stopped or InnerLoopResults(of_request, batched_with)


def _on_step(
    requests: Sequence[_Request], order: Sequence[tuple[int, int]], tasks: range, _: int, losses: Tensor
) -> None:
    """Report a step to each adaptation; a stopped one keeps its place in the batch while others need the batch."""
    observed = any(request.control.observed for request in requests)
    values: Sequence[float | None] = losses.tolist() if observed else [None] * len(tasks)  # tolist waits for the GPU
    for (number, index), loss in zip(order[tasks.start : tasks.stop], values, strict=True):
        request = requests[number]
        try:
            if request.stopped is None:
                request.control.step(None if index else loss)
        except Exception as error:  # noqa: BLE001 - it becomes the result of this adaptation
            request.stopped = error
    stopped = [request.stopped for request in requests if request.stopped is not None]
    if len(stopped) == len(requests):
        raise stopped[0]
