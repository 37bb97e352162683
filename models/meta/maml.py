"""MAML and first-order MAML as meta steps (Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithms 1 and 2).

The images of a training task are split: the inner steps see one part, the outer loss asks about the other. The inner
loop is the one that everything here uses. MAML differentiates the outer loss through its steps; FOMAML (section 5.2)
takes their updates for constants. With a prototype head both differentiate through the prototypes, as ProtoMAML and its
first-order form do (Triantafillou et al. 2020, arXiv:1903.03096, section 3); only statistics that are measured on more
than 256 anchors at once count as constants. Queries are normalised by their own batch, as in Finn et al.'s code.

Tasks run side by side as groups of one wide net, and derivatives are `torch.autograd.grad` with its graph kept: what
`torch.func.grad` does, and the tests hold the gradients against it. `torch.func.vmap` over tasks would not do: its
second derivative of batch normalisation is wrong where every task has weights of its own (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models import weights as algebra
from models.adaptation.inner_loop import InnerLoopOptions, InnerLoopResult, run_inner_loop
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.errors import AdaptationDiverged, InvalidConfig, InvalidTask
from models.meta.meta_rates import ByLayer
from models.meta.outer_adam import adam_step
from models.meta.reptile import MetaStep, MetaTrainingState, Reptile, carried_moments
from models.meta.reptile import meta_step as reptile_meta_step
from models.nets import heads
from models.nets.base import Net, grouped
from models.nets.normalisation import BatchPass
from models.task import Support


@dataclass(frozen=True)
class Maml:
    """MAML, or FOMAML where `second_order` is false.

    Attributes:
        second_order: differentiate through the inner steps.
        learning_rate: of the outer Adam, at step size 1.
        query_shots: images a class that the outer loss asks about; 0 means half of those there are, rounded down.
    """

    second_order: bool
    learning_rate: float = 1e-3
    query_shots: int = 0

    def meta_step(
        self,
        net: Net,
        state: MetaTrainingState,
        supports: Sequence[Support],
        recipe: InnerLoopConfig,
        step_size: float,
        seeds: Sequence[int],
    ) -> MetaTrainingState:
        """Adapt to a part of each support and move the start against the gradient of the mean loss on the rest.

        Raises:
            AdaptationDiverged: a loss or the gradient stopped being finite; the state passed in is untouched.
            InvalidConfig: second order with an Adam inner loop.
            InvalidTask: a support that cannot be split.
        """
        gradients, losses, descent = self.outer_gradient(net, state, supports, recipe, seeds)
        bad = (~(descent.losses.isfinite().all(1) & losses.isfinite())).nonzero().flatten().tolist()
        if bad or not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            raise AdaptationDiverged(recipe.steps, tuple(bad))
        start, outer = adam_step(state.start, gradients, state.outer, self.learning_rate * step_size)
        moments = carried_moments(descent, recipe)
        return MetaTrainingState(start, moments, state.meta_step + 1, float(losses.mean()), outer)

    def outer_gradient(
        self,
        net: Net,
        state: MetaTrainingState,
        supports: Sequence[Support],
        recipe: InnerLoopConfig,
        seeds: Sequence[int],
    ) -> tuple[dict[str, Tensor], Tensor, InnerLoopResult]:
        """The gradient of the mean outer loss by the start.

        Returns:
            The gradient, (...) a name; each task's outer loss, (tasks,); and the descents.

        Raises:
            InvalidConfig: second order with an Adam inner loop.
            InvalidTask: a support that cannot be split.
        """
        if self.second_order and recipe.optimiser == "adam":
            raise InvalidConfig(
                "second-order MAML came with an Adam inner loop, whose update has no derivative where a gradient is 0; "
                "use a recipe with sgd, or fomaml"
            )
        parts = [split(support, self.query_shots) for support in supports]
        start = {name: tensor.detach().clone().requires_grad_() for name, tensor in state.start.items()}
        options = InnerLoopOptions(state.moments, "second" if self.second_order else "first")
        descent = run_inner_loop(
            net, algebra.expand(start, len(parts)), [own for own, _ in parts], recipe, seeds, options
        )
        losses = query_losses(net, descent, [query for _, query in parts], recompute=recipe.recompute)
        gradients = torch.autograd.grad(losses.mean(), list(start.values()), materialize_grads=True)
        return dict(zip(start, gradients, strict=True)), losses.detach(), descent


def meta_step_of(meta: MetaTrainingConfig, threads: int = 1) -> MetaStep:
    """The meta step of the algorithm that `meta` names, with the rates that `meta` has.

    Args:
        meta: which algorithm.
        threads: that Reptile spreads its tasks over; MAML's tasks share one graph, which one thread goes through.
    """
    step = reptile_meta_step if threads == 1 else Reptile(threads).meta_step
    if meta.algorithm != "reptile":
        step = Maml(meta.algorithm == "maml", meta.outer_learning_rate, meta.query_shots).meta_step
    return ByLayer(step, meta.rates).meta_step if meta.rates else step


def split(support: Support, query_shots: int = 0) -> tuple[Support, Support]:
    """Part a support into what the inner steps see and the last `query_shots` images of each class.

    Args:
        query_shots: 0 means half of the smallest class, rounded down.

    Raises:
        InvalidTask: a class too small for both parts, or an anchor among the queries.
    """
    members = F.one_hot(support.labels, support.n_way)  # (samples, n_way)
    counts = members.sum(0)
    smallest = int(counts.min())
    wanted = query_shots or smallest // 2
    if not 0 < wanted < smallest:
        raise InvalidTask(
            f"a class of {smallest} images cannot be split into inner steps and {wanted or 1} queries; "
            "MAML needs train_shots from 2, and more than query_shots"
        )
    place = (members.cumsum(0) * members).sum(1)  # (samples,), from 1 within the sample's class
    asked = place > (counts - wanted)[support.labels]
    anchors = support.anchors
    if anchors is not None:
        if bool(asked[anchors].any()):
            raise InvalidTask(f"an anchor is among the last {wanted} images of its class, which are queries of MAML")
        anchors = ((~asked).cumsum(0) - 1)[anchors]
    inner = replace(support, images=support.images[~asked], labels=support.labels[~asked], anchors=anchors)
    return inner, replace(support, images=support.images[asked], labels=support.labels[asked], anchors=None)


def query_losses(net: Net, descent: InnerLoopResult, queries: Sequence[Support], *, recompute: bool = False) -> Tensor:
    """Each task's mean cross-entropy on its queries, normalised by their own batch: (tasks,).

    Tasks with equally many queries go through the net together, in float32; `recompute` is that of the recipe.
    """
    by_size: dict[int, list[int]] = {}
    for task, query in enumerate(queries):
        by_size.setdefault(len(query), []).append(task)
    losses: dict[int, Tensor] = {}
    for tasks in by_size.values():
        adapted = {name: tensor[tasks] for name, tensor in descent.weights.items()}
        images = grouped(torch.stack([queries[task].images for task in tasks]), precise=True)
        labels = torch.stack([queries[task].labels for task in tasks])  # (tasks, queries)
        features = net.features(BatchPass(adapted, recompute=recompute), images)
        scores = heads.logits(adapted, features, descent.absent[tasks])
        own = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels).mean(1)
        losses.update(zip(tasks, own.unbind(), strict=True))
    return torch.stack([losses[task] for task in range(len(queries))])
