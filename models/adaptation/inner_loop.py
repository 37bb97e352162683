"""The inner loop: adapt K tasks together. One function for meta-training, one client, forty clients and folds alike.

Each task starts from the same weights or from its own; each inner step draws a batch of one fixed size from each task's
support, so supports of different sizes run together without padding, and a mask on the head lets different numbers of
classes do so. Tasks share no arithmetic: no loss, gradient, statistic or random draw of one depends on its batch mates.
Nothing passed in is changed. It refuses to know where the start comes from and what becomes of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.adaptation.gradients import Differentiation
from models.adaptation.optimisers import Moments, Optimiser
from models.config import InnerLoopConfig
from models.errors import InvalidConfig
from models.nets import Net, call_net, call_net_recording, heads
from models.task import Support
from models.weights import Weights, trainable_copy

STATISTICS_SAMPLES = 256
"""Most support images that statistics are measured on in one pass; a larger support is measured on an even subset."""


OnStep = Callable[[int, Tensor], None]
"""Is told after each inner step how many are done, and the losses that it began with, (tasks,)."""


@dataclass(frozen=True)
class InnerLoopOptions:
    """What whoever asks for a descent may ask of it.

    Attributes:
        moments: Adam's second moments, (...) each, to go on from; only for recipes that carry them.
        derivative: what the result may be differentiated through, by starts that require gradients. "none": nothing;
            "first": the starts and the prototypes made from them, each step's update a constant, as FOMAML has it;
            "second": the updates too, for which every step's graph is kept, as MAML has it. Derivatives of several
            steps magnify rounding, so images then go through the net in the layout that rounds least.
        watch: is told of every step; what it raises ends the descent.
    """

    moments: Moments | None = None
    derivative: Literal["none", "first", "second"] = "none"
    watch: OnStep | None = None

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of images: that of the least rounding for second derivatives, else the fastest."""
        return torch.contiguous_format if self.derivative == "second" else torch.channels_last


PLAIN = InnerLoopOptions()


@dataclass(frozen=True)
class InnerLoopResult:
    """K tasks after their inner steps, still stacked.

    Attributes:
        weights: name -> (tasks, ...), the head's rows included.
        losses: (tasks, steps), each step's loss before its update.
        moments: Adam's second moments after the last step, or None.
        absent: bool (tasks, ways), True for rows of the head that a task does not use.
        supports: what the steps learned from, one a task: with mirror images if the recipe has it so.
    """

    weights: Weights
    losses: Tensor
    moments: Moments | None
    absent: Tensor
    supports: Sequence[Support]

    def one(self, task: int, n_way: int) -> dict[str, Tensor]:
        """One task's weights, (1, ...) each, with the head's rows cut to its classes."""
        own = {name: tensor[task : task + 1] for name, tensor in self.weights.items()}
        return {**own, heads.WEIGHT: own[heads.WEIGHT][:, :n_way], heads.BIAS: own[heads.BIAS][:, :n_way]}


@dataclass(frozen=True)
class SupportStatistics:
    """What a pass over all of a task's images tells.

    Attributes:
        statistics: name -> (tasks, channels), of these images.
        features: (tasks, samples, features), normalised by those statistics.
    """

    statistics: dict[str, Tensor]
    features: Tensor


def run_inner_loop(
    net: Net,
    starts: Weights,
    supports: Sequence[Support],
    recipe: InnerLoopConfig,
    seeds: Sequence[int],
    options: InnerLoopOptions = PLAIN,
) -> InnerLoopResult:
    """Run the inner steps of K tasks from `starts`, (tasks, ...) each; see `adapt`."""
    if recipe.mirrors:
        supports = [support.mirrored() for support in supports]
    ways = max(support.n_way for support in supports)
    absent = torch.arange(ways) >= torch.tensor([[support.n_way] for support in supports])
    absent = absent.to(supports[0].images.device)
    if options.derivative == "none":
        starts = _detached(starts)
    head, gain = _initial_head(net, starts, supports, recipe, absent, options.memory_format)
    begun = {**starts, **head}
    stacked = begun if options.derivative == "second" else trainable_copy(_detached(begun))
    optimiser = Optimiser(recipe, list(stacked), options.moments)
    second_order = options.derivative == "second"
    differentiation = Differentiation(recipe, len(supports), absent.device, second_order=second_order)
    plans = [
        batch_plan(len(support), recipe, torch.Generator().manual_seed(seed))
        for support, seed in zip(supports, seeds, strict=True)
    ]
    losses = []
    for step in range(recipe.steps):
        images, labels = _batch(supports, [plan[step] for plan in plans])
        batch = (images, labels, absent, gain)
        loss, gradients = _gradients(net, stacked, optimiser.adapted_names, batch, differentiation)
        if second_order:
            stacked = optimiser.differentiable_step(stacked, gradients)
        else:
            optimiser.step(stacked, gradients)
        del gradients  # a copy of the weights in size, which the next step's passes need not run beside
        losses.append(loss)
        if options.watch is not None:
            options.watch(step + 1, loss)
    if options.derivative == "first":
        stacked = {name: own + (begun[name] - begun[name].detach()) for name, own in stacked.items()}
    stacked[heads.WEIGHT] = stacked[heads.WEIGHT] * gain
    recorded = torch.stack(losses, 1) if losses else torch.zeros(len(supports), 0)
    return InnerLoopResult(stacked, recorded, optimiser.moments(), absent, supports)


def batch_plan(samples: int, recipe: InnerLoopConfig, generator: torch.Generator) -> Tensor:
    """Draw which support images each inner step sees.

    Without replacement the support is gone through in shuffled passes, one after another, and a batch may span two.

    Returns:
        int64 (steps, batch).
    """
    wanted = recipe.steps * recipe.batch_size
    if recipe.replacement:
        drawn = torch.randint(samples, (wanted,), generator=generator)
    else:
        passes = -(-wanted // samples)
        shuffled = [torch.randperm(samples, generator=generator) for _ in range(passes)]
        drawn = torch.cat(shuffled)[:wanted] if shuffled else torch.zeros(0, dtype=torch.int64)
    return drawn.reshape(recipe.steps, recipe.batch_size)


def collect_statistics(
    net: Net,
    stacked: Weights,
    images: Sequence[Tensor],
    memory_format: torch.memory_format = torch.channels_last,
) -> list[SupportStatistics]:
    """Measure each task's statistics on its images and, normalised by them, the images' features.

    Tasks with equally many images go through the net together.

    Args:
        net: its architecture.
        stacked: (tasks, ...) each.
        images: float32 (samples, channels, side, side), one a task.
        memory_format: see `call_net`.
    """
    by_size: dict[int, list[int]] = {}
    for task, own in enumerate(images):
        by_size.setdefault(len(own), []).append(task)
    measured: dict[int, SupportStatistics] = {}
    for tasks in by_size.values():
        together = _measure_equal(
            net,
            {name: tensor[tasks] for name, tensor in stacked.items()},
            torch.stack([images[task] for task in tasks]),
            memory_format,
        )
        for place, task in enumerate(tasks):
            statistics = {name: tensor[place : place + 1] for name, tensor in together.statistics.items()}
            measured[task] = SupportStatistics(statistics, together.features[place : place + 1])
    return [measured[task] for task in range(len(images))]


def _measure_equal(net: Net, stacked: Weights, images: Tensor, memory_format: torch.memory_format) -> SupportStatistics:
    """`collect_statistics` for tasks with equally many images, (tasks, samples, channels, side, side)."""
    samples = images.shape[1]
    if samples <= STATISTICS_SAMPLES:
        features, statistics = call_net_recording(net, stacked, images, memory_format)
        return SupportStatistics(statistics, features)
    subset = torch.linspace(0, samples - 1, STATISTICS_SAMPLES).round().long()
    _, statistics = call_net_recording(net, stacked, images[:, subset], memory_format)
    parts = torch.split(images, STATISTICS_SAMPLES, dim=1)
    by_part = [call_net(net, stacked, part, statistics, memory_format=memory_format) for part in parts]
    return SupportStatistics(statistics, torch.cat(by_part, dim=1))


def _initial_head(
    net: Net,
    starts: Weights,
    supports: Sequence[Support],
    recipe: InnerLoopConfig,
    absent: Tensor,
    memory_format: torch.memory_format,
) -> tuple[dict[str, Tensor], Tensor]:
    """The head that the inner steps begin with, and the features' gain that it is made for, (tasks, 1, 1)."""
    ways = absent.shape[1]
    if recipe.head == "linear":
        if heads.WEIGHT not in starts or starts[heads.WEIGHT].shape[1] < ways:
            rows = starts[heads.WEIGHT].shape[1] if heads.WEIGHT in starts else 0
            raise InvalidConfig(
                f"the linear head has {rows} classes and the task {ways}; use a prototype head for any other number"
            )
        head = {name: starts[name][:, :ways] for name in (heads.WEIGHT, heads.BIAS)}
        return head, torch.ones(len(supports), 1, 1, device=absent.device)
    anchors = [support.anchor_images() for support in supports]
    measured = collect_statistics(net, starts, [images for images, _ in anchors], memory_format)
    means = [
        heads.class_means(own.features, labels[None], ways) for own, (_, labels) in zip(measured, anchors, strict=True)
    ]
    prototypes = torch.cat(means)
    gain = heads.feature_gain(prototypes, absent)
    return heads.prototype_head(prototypes * gain, recipe.head_scale), gain


def _batch(supports: Sequence[Support], chosen: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    images = torch.stack([support.images[rows] for support, rows in zip(supports, chosen, strict=True)])
    labels = torch.stack([support.labels[rows] for support, rows in zip(supports, chosen, strict=True)])
    return images, labels  # (tasks, batch, channels, side, side), (tasks, batch)


def _gradients(
    net: Net,
    stacked: Weights,
    names: Sequence[str],
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    differentiation: Differentiation,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each task's mean cross-entropy, (tasks,), and its gradient, (tasks, ...) a name, in one backward pass.

    Weights that require gradients are in an outer loop's graph, and then so are their gradients. These are taken by
    views, so that a weight's gradient leaves out what other weights were made of it, such as prototypes.
    """
    images, labels, absent, gain = batch
    through = any(tensor.requires_grad for tensor in stacked.values())
    picked = {name: stacked[name] for name in names}
    leaves = {name: own.view_as(own) if through else own.detach().requires_grad_() for name, own in picked.items()}
    at, gain = {**stacked, **leaves}, gain if through else gain.detach()

    def losses_of() -> Tensor:
        scores = heads.logits(at, gain * differentiation.features(net, at, images), absent)  # (tasks, batch, ways)
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels).mean(1)

    losses, gradients = differentiation.gradients(losses_of, list(leaves.values()), through=through)
    return losses, dict(zip(names, gradients, strict=True))


def _detached(stacked: Weights) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in stacked.items()}
