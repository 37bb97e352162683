"""MAML and first-order MAML as meta steps (Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithms 1 and 2).

Each training task is split into images for the inner steps and queries for the outer loss. MAML differentiates the
outer loss through the inner steps. FOMAML (section 5.2) treats their updates as constants. With a prototype head, both
also differentiate through the prototypes, like ProtoMAML (Triantafillou et al. 2020, arXiv:1903.03096, section 3);
statistics of more than 256 anchors at once count as constants. Queries are normalised by their own batch, as in Finn et
al.'s code.

Gradients come from `torch.autograd.grad` over all tasks at once. `torch.func.vmap` over tasks is no alternative: its
second derivative of batch normalisation is wrong when each task has its own weights (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adam import adam

from models import weights as weight_ops
from models.adaptation.inner_loop import InnerLoopOptions, InnerLoopResult, run_inner_loop
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged, InvalidConfig, InvalidTask
from models.meta.outer_loop import AdamState, MetaTrainingState, carried_moments
from models.nets import Net, call_net, heads
from models.task import Support
from models.weights import Weights

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Maml:
    """MAML, or FOMAML if `second_order` is false.

    Attributes:
        second_order: whether to differentiate through the inner steps.
        learning_rate: learning rate of the outer Adam at step size 1.
        query_shots: query images per class; 0 means half of the class's images, rounded down.
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
        """Adapt to part of each support, then take an Adam step on the mean query loss of the rest.

        Raises:
            AdaptationDiverged: a loss or gradient is not finite; `state` is unchanged.
            InvalidConfig: second order with an Adam inner loop.
            InvalidTask: a support cannot be split.
        """
        gradients, losses, adapted = self.outer_gradient(net, state, supports, recipe, seeds)
        diverged = (~(adapted.losses.isfinite().all(1) & losses.isfinite())).nonzero().flatten().tolist()
        if diverged or not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            raise AdaptationDiverged(recipe.steps, tuple(diverged))
        start, outer_adam = adam_step(state.start, gradients, state.outer_adam, self.learning_rate * step_size)
        moments = carried_moments(adapted, recipe)
        return MetaTrainingState(start, moments, state.meta_step + 1, float(losses.mean()), outer_adam)

    def outer_gradient(
        self,
        net: Net,
        state: MetaTrainingState,
        supports: Sequence[Support],
        recipe: InnerLoopConfig,
        seeds: Sequence[int],
    ) -> tuple[dict[str, Tensor], Tensor, InnerLoopResult]:
        """Gradient of the mean query loss with respect to the start.

        Returns:
            The gradient, (...) per name; each task's query loss, (tasks,); and the adapted tasks.

        Raises:
            InvalidConfig: second order with an Adam inner loop.
            InvalidTask: a support cannot be split.
        """
        if self.second_order and recipe.optimiser == "adam":
            raise InvalidConfig(
                "second-order MAML does not support an Adam inner loop, because Adam's update has no derivative where "
                "a gradient is 0; use the sgd optimiser or the fomaml algorithm"
            )
        parts = [split_support_query(support, self.query_shots) for support in supports]
        start = {name: tensor.detach().clone().requires_grad_() for name, tensor in state.start.items()}
        options = InnerLoopOptions(state.moments, "second" if self.second_order else "first")
        adapted = run_inner_loop(
            net, weight_ops.expand(start, len(parts)), [support for support, _ in parts], recipe, seeds, options
        )
        losses = query_losses(net, adapted, [query for _, query in parts], recompute=recipe.recompute)
        gradients = torch.autograd.grad(losses.mean(), list(start.values()), materialize_grads=True)
        return dict(zip(start, gradients, strict=True)), losses.detach(), adapted


def adam_step(
    start: Weights, gradients: Weights, state: AdamState | None, learning_rate: float
) -> tuple[dict[str, Tensor], AdamState]:
    """One Adam update (Kingma & Ba 2015, arXiv:1412.6980): the new start and state; the arguments stay unchanged."""
    if state is None:
        zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        state = AdamState(zeros, zeros, 0)
    moved, first, second = (
        {name: weights[name].detach().clone() for name in start} for weights in (start, state.first, state.second)
    )
    adam(
        list(moved.values()),
        [gradients[name] for name in start],
        list(first.values()),
        list(second.values()),
        [],
        [torch.tensor(float(state.steps)) for _ in start],
        amsgrad=False,
        beta1=BETA1,
        beta2=BETA2,
        lr=learning_rate,
        weight_decay=0.0,
        eps=EPSILON,
        maximize=False,
    )
    return moved, AdamState(first, second, state.steps + 1)


def split_support_query(support: Support, query_shots: int = 0) -> tuple[Support, Support]:
    """Split a support into images for the inner steps and the last `query_shots` images of each class as queries.

    Args:
        support: the images of one training task.
        query_shots: queries per class; 0 means half of the smallest class, rounded down.

    Raises:
        InvalidTask: a class is too small to split, or an anchor would become a query.
    """
    members = F.one_hot(support.labels, support.n_way)  # (samples, n_way)
    counts = members.sum(0)
    smallest = int(counts.min())
    queries = query_shots or smallest // 2
    if not 0 < queries < smallest:
        raise InvalidTask(
            f"a class has {smallest} images, which cannot be split into support and {queries or 1} queries; MAML needs "
            "train_shots of at least 2, and more than query_shots"
        )
    rank = (members.cumsum(0) * members).sum(1)  # (samples,), from 1 within the sample's class
    is_query = rank > (counts - queries)[support.labels]
    anchors = support.anchors
    if anchors is not None:
        if bool(is_query[anchors].any()):
            raise InvalidTask(
                f"an anchor is among the last {queries} images of its class, which MAML uses as queries; use fewer "
                "anchor_shots or query_shots, or more train_shots"
            )
        anchors = ((~is_query).cumsum(0) - 1)[anchors]
    inner = replace(support, inputs=support.inputs[~is_query], labels=support.labels[~is_query], anchors=anchors)
    return inner, replace(support, inputs=support.inputs[is_query], labels=support.labels[is_query], anchors=None)


def query_losses(net: Net, adapted: InnerLoopResult, queries: Sequence[Support], *, recompute: bool = False) -> Tensor:
    """Mean cross-entropy of each task's queries, normalised by their own batch, in float32: (tasks,).

    Tasks with the same number of queries share one forward pass. `recompute` has the meaning that it has in the recipe.
    """
    by_size: dict[int, list[int]] = {}
    for task, query in enumerate(queries):
        by_size.setdefault(len(query), []).append(task)
    losses: dict[int, Tensor] = {}
    for tasks in by_size.values():
        weights = {name: tensor[tasks] for name, tensor in adapted.weights.items()}
        images = torch.stack([queries[task].inputs for task in tasks])  # (tasks, queries, channels, side, side)
        labels = torch.stack([queries[task].labels for task in tasks])  # (tasks, queries)
        features = call_net(net, weights, images, recompute=recompute, memory_format=torch.contiguous_format)
        scores = heads.logits(weights, features, adapted.padding_mask[tasks])
        by_query = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        losses.update(zip(tasks, by_query.mean(1).unbind(), strict=True))
    return torch.stack([losses[task] for task in range(len(queries))])
