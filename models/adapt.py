"""Adaptation proper: the inner loop, then statistics of the whole support, frozen: everything prediction needs.

It refuses to know how a step is made and where the result is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from models import weights as algebra
from models.errors import AdaptationDiverged
from models.inner_loop import Descent, Measured, descend, measure
from models.nets import heads
from models.nets.net import Net
from models.recipe import InnerLoop
from models.task import Support
from models.weights import Weights


@dataclass(frozen=True)
class Adapted:
    """One task, adapted and ready to predict.

    Attributes:
        weights: name -> tensor; ``head.weight`` is (n_way, features).
        statistics: name -> (channels,), measured on the support with these weights, frozen from now on.
        losses: each inner step's loss before its update.
        support_accuracy: share of the support classified right by these weights and statistics.
    """

    weights: Weights
    statistics: Weights
    losses: tuple[float, ...]
    support_accuracy: float


def adapt(
    net: Net,
    start: Weights,
    supports: Sequence[Support],
    recipe: InnerLoop,
    seeds: Sequence[int],
    together: int | None = None,
) -> list[Adapted | AdaptationDiverged]:
    """Adapt every task from `start` and freeze its statistics.

    Args:
        net: its architecture; its own parameters are not used.
        start: the meta-trained weights, (...) each, the same for all tasks.
        supports: one a task, of any sizes and numbers of classes.
        recipe: the same for all tasks.
        seeds: one a task; the only source of its random draws.
        together: tasks that go through the net side by side. Sums then round in another order than for a task alone,
            and steps at a high rate magnify that. None takes 1 on the CPU, so that each task gets the bits that it
            would get alone, and all of them on a GPU.

    Returns:
        One result a task, in order. A task whose numbers stopped being finite gives its error; the others are whole.

    Raises:
        InvalidRecipe: a rate pattern that matches nothing, a linear head of another size.
    """
    if together is None:
        together = 1 if supports[0].images.device.type == "cpu" else len(supports)
    results: list[Adapted | AdaptationDiverged] = []
    for first in range(0, len(supports), together):
        group = supports[first : first + together]
        descent = descend(net, algebra.expand(start, len(group)), group, recipe, seeds[first : first + together])
        measured = measure(net, descent.weights, [support.images for support in group])
        results += [_finish(descent, task, support, measured[task]) for task, support in enumerate(group)]
    return results


def adapt_one(net: Net, start: Weights, support: Support, recipe: InnerLoop, seed: int) -> Adapted:
    """Adapt a single task; raises AdaptationDiverged and what `adapt` raises."""
    (result,) = adapt(net, start, [support], recipe, [seed])
    if isinstance(result, AdaptationDiverged):
        raise result
    return result


def _finish(descent: Descent, task: int, support: Support, measured: Measured) -> Adapted | AdaptationDiverged:
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
    )


def _finite(losses: Tensor, *many: Mapping[str, Tensor]) -> bool:
    return bool(losses.isfinite().all()) and all(
        bool(tensor.isfinite().all()) for tensors in many for tensor in tensors.values()
    )


def _first_bad_step(losses: Tensor) -> int:
    bad = (~losses.isfinite()).nonzero()
    return int(bad[0]) + 1 if len(bad) else len(losses)
