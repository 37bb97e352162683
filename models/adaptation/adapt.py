"""Adaptation proper: the inner loop, then statistics of the whole support, frozen: everything prediction needs.

It refuses to know how a step is made and where the result is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from models import weights as algebra
from models.adaptation.inner_loop import (
    InnerLoopOptions,
    InnerLoopResult,
    OnStep,
    SupportStatistics,
    collect_statistics,
    run_inner_loop,
)
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged
from models.nets import Net, heads
from models.task import Support
from models.weights import Weights


@dataclass(frozen=True)
class Adapted:
    """One task, adapted and ready to predict.

    Attributes:
        weights: name -> tensor; ``head.weight`` is (n_way, features).
        statistics: name -> (channels,), measured on the support with these weights, frozen from now on.
        losses: each inner step's loss before its update.
        support_accuracy: share of the support, with its mirror images if it has any, classified right by these weights
            and statistics.
        means: (n_way, features), each class's mean of its support's features under these weights and statistics.
    """

    weights: Weights
    statistics: Weights
    losses: tuple[float, ...]
    support_accuracy: float
    means: Tensor

    def kept(self) -> dict[str, Tensor]:
        """The weights, and the class means beside them, as a version keeps them."""
        return {**self.weights, heads.MEANS: self.means}


@dataclass(frozen=True)
class InnerLoopInput:
    """One task's inner loop, to be run.

    Attributes:
        support: what it learns from.
        recipe: how.
        seed: of its random draws.
    """

    support: Support
    recipe: InnerLoopConfig
    seed: int


OnGroupStep = Callable[[range, int, Tensor], None]
"""Is told of each inner step which tasks went through the net together, how many steps they did, and their losses."""


@dataclass(frozen=True)
class Company:
    """How tasks that are adapted by one call share the machine, and who watches.

    Attributes:
        together: tasks that go through the net side by side. Sums then round in another order than for a task alone,
            and steps at a high rate magnify that. None takes 1 on the CPU, so that each task gets the bits that it
            would get alone, and all of them on a GPU.
        threads: groups of tasks adapted at the same time on the CPU, one a thread; changes no bit of a result.
        watch: is told of every inner step, in whichever thread; what it raises ends the call.
    """

    together: int | None = None
    threads: int = 1
    watch: OnGroupStep | None = None


ALONE = Company()


def adapt(
    net: Net,
    start: Weights,
    supports: Sequence[Support],
    recipe: InnerLoopConfig | Sequence[InnerLoopConfig],
    seeds: Sequence[int],
    company: Company = ALONE,
) -> list[Adapted | AdaptationDiverged]:
    """Adapt every task from `start` and freeze its statistics.

    Args:
        net: its architecture; its own parameters are not used.
        start: the meta-trained weights, (...) each, the same for all tasks.
        supports: one a task, of any sizes and numbers of classes.
        recipe: the same for all tasks, or one a task.
        seeds: one a task; the only source of its random draws.
        company: how the tasks share the machine; tasks with different recipes never go through the net together.

    Returns:
        One result a task, in order. A task whose numbers stopped being finite gives its error; the others are whole.

    Raises:
        InvalidConfig: a rate pattern that matches nothing, a linear head of another size.
    """
    recipes = [recipe] * len(supports) if isinstance(recipe, InnerLoopConfig) else list(recipe)
    groups = list(_groups(recipes, company.together or (1 if _on_cpu(supports) else len(supports))))

    def adapted(tasks: range) -> list[Adapted | AdaptationDiverged]:
        loops = [InnerLoopInput(supports[task], recipes[task], seeds[task]) for task in tasks]
        return _adapt_group(net, start, loops, None if company.watch is None else partial(company.watch, tasks))

    if company.threads == 1 or len(groups) == 1 or not _on_cpu(supports):
        return [result for tasks in groups for result in adapted(tasks)]
    with ThreadPoolExecutor(min(company.threads, len(groups)), "adapt") as pool:
        return [result for results in pool.map(adapted, groups) for result in results]


def _on_cpu(supports: Sequence[Support]) -> bool:
    return supports[0].images.device.type == "cpu"


def _groups(recipes: Sequence[InnerLoopConfig], together: int) -> Iterator[range]:
    """Cut the tasks, in order, into groups of at most `together` that have one recipe."""
    first = 0
    for task in range(1, len(recipes) + 1):
        if task == len(recipes) or task - first == together or recipes[task] != recipes[first]:
            yield range(first, task)
            first = task


def adapt_inputs(
    net: Net, start: Weights, loops: Sequence[InnerLoopInput], company: Company = ALONE
) -> list[Adapted | AdaptationDiverged]:
    """`adapt`, for tasks that each have their recipe and seed with them."""
    supports, seeds = [loop.support for loop in loops], [loop.seed for loop in loops]
    return adapt(net, start, supports, [loop.recipe for loop in loops], seeds, company)


def _adapt_group(
    net: Net, start: Weights, loops: Sequence[InnerLoopInput], watch: OnStep | None
) -> list[Adapted | AdaptationDiverged]:
    """Adapt tasks that have one recipe, together."""
    supports, seeds = [loop.support for loop in loops], [loop.seed for loop in loops]
    options = InnerLoopOptions(watch=watch)
    descent = run_inner_loop(net, algebra.expand(start, len(loops)), supports, loops[0].recipe, seeds, options)
    measured = collect_statistics(net, descent.weights, [support.images for support in descent.supports])
    return [_finish(descent, task, measured[task]) for task in range(len(loops))]


def adapt_one(net: Net, start: Weights, support: Support, recipe: InnerLoopConfig, seed: int) -> Adapted:
    """Adapt a single task; raises AdaptationDiverged and what `adapt` raises."""
    (result,) = adapt(net, start, [support], recipe, [seed])
    if isinstance(result, AdaptationDiverged):
        raise result
    return result


def _finish(descent: InnerLoopResult, task: int, measured: SupportStatistics) -> Adapted | AdaptationDiverged:
    support = descent.supports[task]
    own = descent.one(task, support.n_way)
    losses = descent.losses[task]
    if not _finite(losses, own, measured.statistics):
        return AdaptationDiverged(_first_bad_step(losses), (task,))
    predicted = heads.logits(own, measured.features).argmax(-1)[0]
    return Adapted(
        weights=algebra.task_slice(own, 0),
        statistics=algebra.task_slice(measured.statistics, 0),
        losses=tuple(losses.tolist()),
        support_accuracy=float((predicted == support.labels).float().mean()),
        means=heads.class_means(measured.features, support.labels[None], support.n_way)[0],
    )


def _finite(losses: Tensor, *many: Mapping[str, Tensor]) -> bool:
    return bool(losses.isfinite().all()) and all(
        bool(tensor.isfinite().all()) for tensors in many for tensor in tensors.values()
    )


def _first_bad_step(losses: Tensor) -> int:
    bad = (~losses.isfinite()).nonzero()
    return int(bad[0]) + 1 if len(bad) else len(losses)
