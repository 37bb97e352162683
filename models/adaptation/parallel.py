"""Tasks spread over the cores of a CPU: each thread runs the inner loops of its share of the tasks, side by side.

Operations on a few-shot batch are too small to be worth splitting among threads; tasks share nothing and need not be.
It refuses to know what an inner step is.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch

from models import weights as algebra
from models.adaptation.inner_loop import InnerLoopOptions, InnerLoopResult, run_inner_loop
from models.adaptation.optimisers import Moments
from models.config import InnerLoopConfig
from models.nets import Net
from models.task import Support
from models.weights import Weights


@dataclass(frozen=True)
class Spread:
    """So many threads, each with its share of the tasks.

    The process itself is best set to one thread an operation: threads that wait inside operations take the time of
    those that work.
    """

    threads: int = 1

    def run_inner_loop(
        self,
        net: Net,
        start: Weights,
        supports: Sequence[Support],
        recipe: InnerLoopConfig,
        seeds: Sequence[int],
        moments: Moments | None = None,
    ) -> InnerLoopResult:
        """Run K tasks' inner steps from one start; see `run_inner_loop`.

        On a GPU, and where tasks differ in their number of classes, all go through the net together on one thread. The
        number of threads changes how sums round.

        Args:
            net: its architecture.
            start: (...) each, the same for all tasks.
            supports: one a task.
            recipe: of the inner loops.
            seeds: one a task.
            moments: Adam's, (...) each, to go on from.

        Raises:
            InvalidConfig: as `run_inner_loop`.
        """
        options = InnerLoopOptions(moments)

        def own(share: range) -> InnerLoopResult:
            tasks = [supports[task] for task in share]
            starts = algebra.expand(start, len(tasks))
            return run_inner_loop(net, starts, tasks, recipe, [seeds[task] for task in share], options)

        threads = min(self.threads, len(supports)) if _can_part(supports) else 1
        if threads == 1:
            return own(range(len(supports)))
        return _joined(list(_crew(threads).map(own, _shares(len(supports), threads))))


def _can_part(supports: Sequence[Support]) -> bool:
    on_cpu = supports[0].images.device.type == "cpu"
    return on_cpu and len({support.n_way for support in supports}) == 1


def _shares(tasks: int, threads: int) -> list[range]:
    """Consecutive tasks for each thread, as equal in number as can be; the larger shares come first."""
    least, more = divmod(tasks, threads)
    ends = [least * (thread + 1) + min(more, thread + 1) for thread in range(threads)]
    return [range(first, end) for first, end in zip([0, *ends], ends, strict=False)]


@cache
def _crew(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, each of which keeps the operations that it calls to itself."""
    return ThreadPoolExecutor(threads, "run_inner_loop", initializer=torch.set_num_threads, initargs=(1,))


def _joined(parts: Sequence[InnerLoopResult]) -> InnerLoopResult:
    """Descents of tasks with equally many classes as one."""
    states = [part.moments for part in parts]
    kept = [state for state in states if state is not None]
    moments = Moments(algebra.join([state.second for state in kept]), kept[0].steps) if kept else None
    losses, absent = (torch.cat(own) for own in zip(*((part.losses, part.absent) for part in parts), strict=True))
    supports = [support for part in parts for support in part.supports]
    return InnerLoopResult(algebra.join([part.weights for part in parts]), losses, moments, absent, supports)
