"""Adaptation: the inner loop, followed by statistics of the whole support, which are then fixed for prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from models.adaptation.executor import FairExecutor
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
from models.nets import Net, heads, patch_memory
from models.nets.backbone import standardised_length
from models.nets.head_posterior import posterior_weights
from models.nets.normalisation import fold
from models.task import Support
from models.weights import Weights, stack, task_slice

_FAR = 2.0
"""Times the median length of the support from which an image is far. With less, AUROC on X-SDD falls."""

_IN_DOUBT = 0.3
"""Lead of the best class, as a share of `heads.LEVEL`, below which the turned image counts as well."""


@dataclass(frozen=True)
class Adapted:
    """One adapted task, ready to predict.

    Attributes:
        weights: name -> tensor; ``head.weight`` is (n_way, features).
        statistics: name -> (channels,), measured on the support with these weights and fixed from then on.
        losses: each inner step's loss before its update.
        support_accuracy: accuracy on the support, 0 to 1, including flipped images if the recipe augments with flips.
        means: (n_way, features), mean features of each class's support under these weights and statistics; None with
            an LDA head, which needs none.
    """

    weights: Weights
    statistics: Weights
    losses: tuple[float, ...]
    support_accuracy: float
    means: Tensor | None

    def kept(self) -> dict[str, Tensor]:
        """The weights and the class means, which a version stores."""
        return dict(self.weights) if self.means is None else {**self.weights, heads.MEANS: self.means}


@dataclass(frozen=True)
class InnerLoopInput:
    """Input of one task's inner loop.

    Attributes:
        support: what to learn from.
        recipe: how.
        seed: of the random draws.
        start: weights to start from, (...) each; None means the start that all tasks share.
    """

    support: Support
    recipe: InnerLoopConfig
    seed: int
    start: Weights | None = None


OnGroupStep = Callable[[range, int, Tensor], None]
"""Called after each inner step with the tasks that ran together, the number of steps done, and their losses."""


@dataclass(frozen=True)
class BatchingOptions:
    """How the tasks of one call share the machine.

    Attributes:
        batch_size: most tasks that go through the net together. Batching changes how sums round, and steps at a high
            learning rate magnify the difference. None: 1 on the CPU, so that each task's result is bit-identical to
            adapting it alone, and all tasks on a GPU.
        executor: runs several batches at the same time, on the CPU only; results are bit-identical.
        on_step: called after every inner step, in any thread; an error that it raises ends the call.
    """

    batch_size: int | None = None
    executor: FairExecutor | None = None
    on_step: OnGroupStep | None = None


_DEFAULTS = BatchingOptions()


def adapt(
    net: Net,
    start: Weights,
    supports: Sequence[Support],
    recipe: InnerLoopConfig | Sequence[InnerLoopConfig],
    seeds: Sequence[int],
    batching: BatchingOptions = _DEFAULTS,
) -> list[Adapted | AdaptationDiverged]:
    """Adapt every task from `start` and fix its statistics.

    Args:
        net: the architecture; its own parameters are not used.
        start: meta-trained weights, (...) each, the same for all tasks.
        supports: one per task, of any sizes and numbers of classes.
        recipe: one for all tasks, or one per task.
        seeds: one per task; the only source of its random draws.
        batching: how the tasks share the machine. Tasks with different recipes never go through the net together.

    Returns:
        One result per task, in order. A task whose numbers are no longer finite gives an error; the others are not
        affected.

    Raises:
        InvalidConfig: see `run_inner_loop`.
    """
    recipes = [recipe] * len(supports) if isinstance(recipe, InnerLoopConfig) else list(recipe)
    loops = [InnerLoopInput(*given) for given in zip(supports, recipes, seeds, strict=True)]
    return adapt_inputs(net, start, loops, batching)


def _batches(loops: Sequence[InnerLoopInput], batch_size: int) -> Iterator[range]:
    """Split the tasks, in order, into batches of at most `batch_size` tasks with the same recipe.

    A task with a patch memory is a batch of its own: memories differ in shape. Inputs of a batch have one shape; with
    notes they are longer.
    """
    kinds = [(loop.recipe, loop.support.inputs.shape[1:]) for loop in loops]
    first = 0
    for task in range(1, len(loops) + 1):
        full = task - first == batch_size or loops[first].recipe.patch_memory
        if task == len(loops) or full or kinds[task] != kinds[first]:
            yield range(first, task)
            first = task


def adapt_inputs(
    net: Net, start: Weights, loops: Sequence[InnerLoopInput], batching: BatchingOptions = _DEFAULTS
) -> list[Adapted | AdaptationDiverged]:
    """Do what `adapt` does for tasks with a recipe and a seed each, and where given, a start of their own."""
    on_cpu = loops[0].support.inputs.device.type == "cpu"
    batches = list(_batches(loops, batching.batch_size or (1 if on_cpu else len(loops))))

    def adapt_batch(tasks: range) -> list[Adapted | AdaptationDiverged]:
        own = [loops[task] for task in tasks]
        return _adapt_batch(net, start, own, None if batching.on_step is None else partial(batching.on_step, tasks))

    if batching.executor is None or not on_cpu:
        return [result for tasks in batches for result in adapt_batch(tasks)]
    results = batching.executor.run([partial(adapt_batch, tasks) for tasks in batches])
    return [result for batch in results for result in batch]


def adapt_one(net: Net, start: Weights, support: Support, recipe: InnerLoopConfig, seed: int) -> Adapted:
    """Adapt a single task.

    Raises:
        AdaptationDiverged: the weights, statistics or losses are no longer finite.
        InvalidConfig: see `run_inner_loop`.
    """
    (result,) = adapt(net, start, [support], recipe, [seed])
    if isinstance(result, AdaptationDiverged):
        raise result
    return result


def _adapt_batch(
    net: Net, start: Weights, loops: Sequence[InnerLoopInput], on_step: OnStep | None
) -> list[Adapted | AdaptationDiverged]:
    """Adapt tasks with the same recipe together."""
    supports, seeds = [loop.support for loop in loops], [loop.seed for loop in loops]
    options = InnerLoopOptions(on_step=on_step)
    starts = stack([start if loop.start is None else loop.start for loop in loops])
    result = run_inner_loop(net, starts, supports, loops[0].recipe, seeds, options)
    collected: Sequence[SupportStatistics] | None = result.collected
    if collected is None or loops[0].recipe.steps:  # the steps may have changed what statistics are measured with
        collected = collect_statistics(net, result.weights, [support.inputs for support in result.supports])
    return [_adapted(result, task, collected[task], loop) for task, loop in enumerate(loops)]


def _adapted(
    result: InnerLoopResult, task: int, collected: SupportStatistics, loop: InnerLoopInput
) -> Adapted | AdaptationDiverged:
    support = result.supports[task]
    weights = result.task_weights(task, support.n_way)
    losses = result.losses[task]
    if not _all_finite(losses, weights, collected.statistics):
        return AdaptationDiverged(_first_bad_step(losses), (task,))
    if heads.LEVEL in weights and support.inputs.ndim == 2 and "pooled.mean" in collected.statistics:  # of a backbone
        folded = fold({}, collected.statistics)
        lengths = standardised_length(support.inputs[None], folded["pooled.scale"], folded["pooled.shift"])
        weights[heads.LENGTH] = _FAR * lengths.median(-1).values  # (1,)
        if support.views > 1 and patch_memory.PATCHES not in weights:  # a memory compares places, which turning moves
            weights[heads.SECOND_LOOK] = _IN_DOUBT * weights[heads.LEVEL]  # (1,)
    predicted = heads.logits(weights, collected.features).argmax(-1)[0]
    adapted = task_slice(weights, 0)
    if loop.recipe.uncertainty == "bayes":
        generator = torch.Generator().manual_seed(loop.seed)
        means, counts = _class_means(collected, support), _objects(support)
        adapted |= posterior_weights(adapted[heads.WEIGHT], means, counts, generator)
    return Adapted(
        weights=adapted,
        statistics=task_slice(collected.statistics, 0),
        losses=tuple(losses.tolist()),
        support_accuracy=float((predicted == support.labels).float().mean()),
        means=None if heads.LEVEL in weights else _class_means(collected, support),
    )


def _class_means(collected: SupportStatistics, support: Support) -> Tensor:
    return heads.class_means(collected.features, support.labels[None], support.n_way)[0]


def _objects(support: Support) -> Tensor:
    """How many different objects show each class: int64 (n_way,)."""
    pairs = torch.stack([support.sample_labels, support.sample_groups])
    return torch.bincount(torch.unique(pairs, dim=1)[0], minlength=support.n_way)


def _all_finite(losses: Tensor, *many: Mapping[str, Tensor]) -> bool:
    return bool(losses.isfinite().all()) and all(
        bool(tensor.isfinite().all()) for tensors in many for tensor in tensors.values()
    )


def _first_bad_step(losses: Tensor) -> int:
    bad = (~losses.isfinite()).nonzero()
    return int(bad[0]) + 1 if len(bad) else len(losses)
