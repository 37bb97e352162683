"""The inner loop: adapt K tasks from their starting weights, all at once.

Meta-training, one client, many clients and cross-validation folds all use `run_inner_loop`. Each inner step draws a
batch of the same size from every task's support, so supports of different sizes need no padding; a padding mask on the
head allows for different numbers of classes. Tasks share no arithmetic: a task's loss, gradients, statistics and random
draws do not depend on the other tasks of the batch. Arguments are never modified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.adaptation.executor import FairExecutor
from models.adaptation.gaussian_weights import GaussianStep, draw_noise
from models.adaptation.gradients import GradientComputation
from models.adaptation.optimisers import Moments, Optimiser
from models.config import InnerLoopConfig
from models.errors import InvalidConfig
from models.nets import BackboneNet, MultimodalNet, Net, call_net, call_net_recording, heads, note_head, patch_memory
from models.nets.head_posterior import LOG_SD
from models.task import Support
from models.weights import Weights, join, trainable_copy

STATISTICS_SAMPLES = 256
"""Statistics are measured on at most this many support images; of a larger support, on an even subset."""

_POOLED_SHARE = 0.25
"""Share of the pooled features' scores beside a patch memory, for each class. They fit the support perfectly and new
images less well, but tell several kinds of defects apart better than the memory does."""

_MEMORY_SHRINKAGE = 0.2
"""Of the covariance of a patch memory's features, which are few."""

_RIDGE_SHARE = 0.5
"""Share of the prior's ridge that counts: limited features vary less than those that the prior was learned from."""

OnStep = Callable[[int, Tensor], None]
"""Called after each inner step with the number of steps done and the losses before the step, (tasks,)."""


@dataclass(frozen=True)
class InnerLoopOptions:
    """Options of one call of `run_inner_loop`.

    Attributes:
        moments: Adam's second moments, (...) each, to continue from; only for recipes that carry them.
        derivative: what the result can be differentiated through, if the starting weights require gradients. "none":
            nothing. "first": the starting weights and the prototypes made from them, with each step's update as a
            constant, as in FOMAML. "second": the updates too, as in MAML; the graph of every step is kept. Derivatives
            through several steps magnify rounding, so "second" uses the memory format that rounds least.
        on_step: called after every step, in any thread; an error that it raises ends the call.
        executor: spreads the tasks over its threads, on the CPU only. The number of threads changes how sums round.
    """

    moments: Moments | None = None
    derivative: Literal["none", "first", "second"] = "none"
    on_step: OnStep | None = None
    executor: FairExecutor | None = None

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the images."""
        return torch.contiguous_format if self.derivative == "second" else torch.channels_last


_DEFAULTS = InnerLoopOptions()


@dataclass(frozen=True)
class SupportStatistics:
    """Statistics of a task's inputs, and the features normalised by them.

    Attributes:
        statistics: name -> (tasks, channels).
        features: (tasks, samples, features).
    """

    statistics: dict[str, Tensor]
    features: Tensor


@dataclass(frozen=True)
class InnerLoopResult:
    """K tasks after their inner steps, stacked.

    Attributes:
        weights: name -> (tasks, ...), the head included.
        losses: (tasks, steps), each step's loss before its update.
        moments: Adam's second moments after the last step, or None.
        padding_mask: bool (tasks, ways), True for rows of the head that a task does not use.
        supports: what the steps learned from, one per task; with flipped images if the recipe augments with flips.
        collected: statistics that were fixed before the first step, one per task; None if the steps normalised by
            their batches.
    """

    weights: Weights
    losses: Tensor
    moments: Moments | None
    padding_mask: Tensor
    supports: Sequence[Support]
    collected: Sequence[SupportStatistics] | None = None

    def task_weights(self, task: int, n_way: int) -> dict[str, Tensor]:
        """One task's weights, (1, ...) each, with the head cut to its number of classes."""
        weights = {name: tensor[task : task + 1] for name, tensor in self.weights.items()}
        head = {name: weights[name][:, :n_way] for name in (heads.WEIGHT, heads.BIAS)}
        return {**weights, **head}


@dataclass(frozen=True)
class _InitialHead:
    """The head before the first step.

    Attributes:
        weights: stacked.
        gain: of the features that the head is made for, (tasks, 1, 1).
        extra: stacked tensors of the head that no step changes.
        collected: see `InnerLoopResult.collected`.
    """

    weights: dict[str, Tensor]
    gain: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    collected: Sequence[SupportStatistics] | None = None

    def statistics(self) -> dict[str, Tensor]:
        """The fixed statistics, stacked: name -> (tasks, channels); empty if there are none."""
        return {} if self.collected is None else join([one.statistics for one in self.collected])

    def finished(self, stacked: Weights) -> dict[str, Tensor]:
        """The head after the last step, for features as the net gives them."""
        return {heads.WEIGHT: stacked[heads.WEIGHT] * self.gain, **self.extra}


class _Draws:
    """The random draws of an inner loop, from one generator per task.

    Args:
        starts: starting weights, stacked.
        supports: one per task.
        recipe: of the inner loop.
        seeds: one per task.

    Attributes:
        plans: see `batch_plan`; one per task.
    """

    def __init__(
        self, starts: Weights, supports: Sequence[Support], recipe: InnerLoopConfig, seeds: Sequence[int]
    ) -> None:
        self._starts, self._learning_rate = starts, recipe.learning_rate
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pairs = zip(supports, self._generators, strict=True)
        self.plans = [batch_plan(support.labels, recipe, generator) for support, generator in pairs]
        self._rows = torch.tensor([len(support) for support in supports], device=supports[0].inputs.device)

    def gaussian(self) -> GaussianStep:
        """The next step's samples of Gaussian weights."""
        noise = draw_noise(self._starts, self._generators)
        return GaussianStep(self._starts, self._rows, noise, self._learning_rate)


def run_inner_loop(
    net: Net,
    starts: Weights,
    supports: Sequence[Support],
    recipe: InnerLoopConfig,
    seeds: Sequence[int],
    options: InnerLoopOptions = _DEFAULTS,
) -> InnerLoopResult:
    """Run the inner steps of K tasks.

    Args:
        net: the architecture; its own parameters are not used.
        starts: starting weights, (tasks, ...) each.
        supports: one per task, of any sizes and numbers of classes.
        recipe: configuration of the inner loop.
        seeds: one per task; the only source of its random draws.
        options: see `InnerLoopOptions`.

    Raises:
        InvalidConfig: a multiplier pattern matches no weight, the linear head has too few classes, or the device or the
            derivative does not support the precision.
    """
    if options.executor is not None and _can_split(supports):
        alone = replace(options, executor=None)

        def run(part: slice) -> InnerLoopResult:
            return run_inner_loop(net, _slice(starts, part), supports[part], recipe, seeds[part], alone)

        return _run_spread(options.executor, len(supports), run)
    if recipe.flip_augment:
        supports = [support.with_flips() for support in supports]
    device, second_order = supports[0].inputs.device, options.derivative == "second"
    padding_mask = _padding_mask(supports)
    if options.derivative == "none":
        starts = _detached(starts)
    head = _initial_head(net, starts, supports, recipe, padding_mask, options.memory_format)
    fixed = {**head.statistics(), **head.extra}
    initial = {**starts, **head.weights}
    stacked = initial if second_order else trainable_copy(_detached(initial))
    optimiser = Optimiser(recipe, [name for name in stacked if name != LOG_SD], options.moments)
    computation = GradientComputation(recipe, len(supports), device, second_order=second_order)
    draws = _Draws(starts, supports, recipe, seeds)
    losses = []
    for step in range(recipe.steps):
        batch = (*_batch(supports, [plan[step] for plan in draws.plans]), padding_mask, head.gain)
        weights, names = {**stacked, **fixed}, optimiser.adapted_names
        loss, gradients = _gradients(net, weights, names, batch, computation, draws.gaussian())
        if second_order:
            stacked = optimiser.differentiable_step(stacked, gradients)
        else:
            optimiser.step(stacked, gradients)
        del gradients  # as large as the weights; freed before the next step's forward pass
        losses.append(loss)
        if options.on_step is not None:
            options.on_step(step + 1, loss)
    if options.derivative == "first":
        stacked = {name: tensor + (initial[name] - initial[name].detach()) for name, tensor in stacked.items()}
    stacked.update(head.finished(stacked))
    recorded = torch.stack(losses, 1) if losses else torch.zeros(len(supports), 0)
    return InnerLoopResult(stacked, recorded, optimiser.moments(), padding_mask, supports, head.collected)


def _run_spread(executor: FairExecutor, tasks: int, run: Callable[[slice], InnerLoopResult]) -> InnerLoopResult:
    """Run the tasks in several batches, one per thread of the executor."""
    return _joined(executor.run([partial(run, share) for share in _shares(tasks, executor.threads)]))


def _can_split(supports: Sequence[Support]) -> bool:
    """Whether tasks can run in separate batches: on the CPU, with equal numbers of classes."""
    return supports[0].inputs.device.type == "cpu" and len({support.n_way for support in supports}) == 1


def _shares(tasks: int, threads: int) -> list[slice]:
    """Consecutive tasks for each thread, as equal in number as possible."""
    shares = torch.arange(tasks).tensor_split(min(threads, tasks))
    return [slice(int(share[0]), int(share[-1]) + 1) for share in shares]


def _slice(stacked: Weights, tasks: slice) -> dict[str, Tensor]:
    return {name: tensor[tasks] for name, tensor in stacked.items()}


def _joined(results: Sequence[InnerLoopResult]) -> InnerLoopResult:
    """Results of tasks with equal numbers of classes as one."""
    states = [result.moments for result in results if result.moments is not None]
    return InnerLoopResult(
        weights=join([result.weights for result in results]),
        losses=torch.cat([result.losses for result in results]),
        moments=Moments(join([state.second for state in states]), states[0].steps) if states else None,
        padding_mask=torch.cat([result.padding_mask for result in results]),
        supports=[support for result in results for support in result.supports],
        collected=_joined_statistics(results),
    )


def _joined_statistics(results: Sequence[InnerLoopResult]) -> list[SupportStatistics] | None:
    if any(result.collected is None for result in results):
        return None
    return [one for result in results for one in result.collected or ()]


def _padding_mask(supports: Sequence[Support]) -> Tensor:
    """See `InnerLoopResult.padding_mask`."""
    n_ways = torch.tensor([[support.n_way] for support in supports])  # (tasks, 1)
    return (torch.arange(int(n_ways.max())) >= n_ways).to(supports[0].inputs.device)


def batch_plan(labels: Tensor, recipe: InnerLoopConfig, generator: torch.Generator) -> Tensor:
    """Draw the support images that each inner step sees, evenly over the classes.

    Without replacement, the batches go through the support in shuffled passes; a batch may span two passes. In each
    pass, every class has as many draws as the largest one, so images of smaller classes come several times.

    Args:
        labels: int64 (samples,), class indices of the support; every class has a sample.
        recipe: configuration of the inner loop.
        generator: source of the draws.

    Returns:
        Indices, int64 (steps, batch).
    """
    count = recipe.steps * recipe.batch_size
    rows = _balanced_rows(labels.cpu(), generator)
    if recipe.replacement:
        drawn = rows[torch.randint(len(rows), (count,), generator=generator)]
    else:
        passes = -(-count // len(rows))
        shuffled = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(passes)]
        drawn = torch.cat(shuffled)[:count] if shuffled else torch.zeros(0, dtype=torch.int64)
    return drawn.reshape(recipe.steps, recipe.batch_size)


def _balanced_rows(labels: Tensor, generator: torch.Generator) -> Tensor:
    """All rows of the support, then rows of smaller classes again, until each has as many as the largest."""
    sizes = torch.bincount(labels).tolist()
    rows = [torch.arange(len(labels))]
    for label, size in enumerate(sizes):
        missing = max(sizes) - size
        if missing:
            members = (labels == label).nonzero().flatten()[torch.randperm(size, generator=generator)]
            rows.append(members.repeat(-(-missing // size))[:missing])
    return torch.cat(rows)


def collect_statistics(
    net: Net,
    stacked: Weights,
    images: Sequence[Tensor],
    memory_format: torch.memory_format = torch.channels_last,
) -> list[SupportStatistics]:
    """Measure each task's statistics on its images, and compute the images' features normalised by them.

    Tasks with equal numbers of images go through the net together.

    Args:
        net: the architecture.
        stacked: (tasks, ...) each.
        images: float32 (samples, ...), the inputs of one task each.
        memory_format: see `call_net`.
    """
    by_size: dict[int, list[int]] = {}
    for task, samples in enumerate(images):
        by_size.setdefault(len(samples), []).append(task)
    collected: dict[int, SupportStatistics] = {}
    for tasks in by_size.values():
        batch = _collect_equal(
            net,
            {name: tensor[tasks] for name, tensor in stacked.items()},
            torch.stack([images[task] for task in tasks]),
            memory_format,
        )
        for row, task in enumerate(tasks):
            statistics = {name: tensor[row : row + 1] for name, tensor in batch.statistics.items()}
            collected[task] = SupportStatistics(statistics, batch.features[row : row + 1])
    return [collected[task] for task in range(len(images))]


def _collect_equal(net: Net, stacked: Weights, images: Tensor, memory_format: torch.memory_format) -> SupportStatistics:
    """`collect_statistics` for tasks with equal numbers of images, (tasks, samples, channels, side, side)."""
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
    padding_mask: Tensor,
    memory_format: torch.memory_format,
) -> _InitialHead:
    ways, no_gain = padding_mask.shape[1], torch.ones(len(supports), 1, 1, device=padding_mask.device)
    if recipe.head == "linear":
        rows = starts[heads.WEIGHT].shape[1] if heads.WEIGHT in starts else 0
        if rows < ways:
            raise InvalidConfig(
                f"the linear head has {rows} classes but the task has {ways}; use a prototype head for other numbers"
            )
        return _InitialHead({name: starts[name][:, :ways] for name in (heads.WEIGHT, heads.BIAS)}, no_gain)
    if recipe.head == "lda":
        collected = collect_statistics(net, starts, [support.inputs for support in supports], memory_format)
        options = _lda_options(net, recipe, padding_mask.device)
        if recipe.patch_memory:
            return _with_notes(net, supports, _memory_head(net, supports[0], options, collected[0]))
        return _with_notes(net, supports, _lda_head(supports, options, ways, collected))
    anchors = [support.anchor_inputs() for support in supports]
    collected = collect_statistics(net, starts, [inputs for inputs, _ in anchors], memory_format)
    prototypes = torch.cat(
        [
            heads.class_means(statistics.features, labels[None], ways)
            for statistics, (_, labels) in zip(collected, anchors, strict=True)
        ]
    )
    gain = heads.feature_gain(prototypes, padding_mask)
    head = heads.prototype_head(prototypes * gain, recipe.head_scale)
    if isinstance(net, MultimodalNet):
        head = net.for_missing(head, recipe.head_scale, gain)
    return _InitialHead(head, gain)


def _lda_options(net: Net, recipe: InnerLoopConfig, device: torch.device) -> heads.LdaOptions:
    prior = net.prior if isinstance(net, BackboneNet) else None
    options = heads.LdaOptions(recipe.shrinkage, recipe.head_scale, fisher_gains=recipe.feature_gains == "fisher")
    if prior is None:
        return options
    return replace(options, prior_directions=prior.directions.to(device), prior_ridge=_RIDGE_SHARE * float(prior.ridge))


def _lda_head(
    supports: Sequence[Support], options: heads.LdaOptions, ways: int, collected: Sequence[SupportStatistics]
) -> _InitialHead:
    """One LDA head per task; rows without a class are 0."""
    made = []
    for support, one in zip(supports, collected, strict=True):
        rows = slice(None) if support.anchors is None else support.anchors
        features, labels = one.features[0, rows], support.labels[rows]
        made.append(heads.lda_head(features, labels, support.n_way, options))
    weight = torch.stack([F.pad(head[heads.WEIGHT], (0, 0, 0, ways - len(head[heads.WEIGHT]))) for head in made])
    bias = torch.stack([F.pad(head[heads.BIAS], (0, ways - len(head[heads.BIAS]))) for head in made])
    level = torch.stack([head[heads.LEVEL] for head in made])  # (tasks,)
    gain = torch.ones(len(made), 1, 1, device=weight.device)
    return _InitialHead({heads.WEIGHT: weight, heads.BIAS: bias}, gain, {heads.LEVEL: level}, collected)


def _memory_head(net: Net, support: Support, options: heads.LdaOptions, collected: SupportStatistics) -> _InitialHead:
    """The LDA head of one task with a patch memory: a part of one on the pooled features, and one on the memory's.

    All views of a sample have the memory's features of the sample itself: a flipped image shows the same differences.
    """
    if not isinstance(net, BackboneNet) or not net.local_features(support.inputs).shape[-1]:
        raise InvalidConfig("patch_memory needs the local features of a frozen backbone; use it without")
    patches, labels, groups = net.local_features(support.samples), support.sample_labels, support.sample_groups
    memory, compared = patch_memory.build_memory(patches, labels, groups, support.n_way)
    pooled = _lda_head([support], options, support.n_way, [collected])
    plain = heads.LdaOptions(_MEMORY_SHRINKAGE, options.scale)
    own = heads.lda_head(compared, support.sample_labels, support.n_way, plain)
    share = _POOLED_SHARE * support.n_way
    weights = {
        heads.WEIGHT: torch.cat([share * pooled.weights[heads.WEIGHT], own[heads.WEIGHT][None]], dim=-1),
        heads.BIAS: share * pooled.weights[heads.BIAS] + own[heads.BIAS],
    }
    extra = {heads.LEVEL: share * pooled.extra[heads.LEVEL] + own[heads.LEVEL]}
    extra.update({name: tensor[None] for name, tensor in memory.items()})
    features = torch.cat([collected.features, compared.repeat(support.views, 1)[None]], dim=-1)
    return _InitialHead(weights, pooled.gain, extra, [SupportStatistics(collected.statistics, features)])


def _with_notes(net: Net, supports: Sequence[Support], head: _InitialHead) -> _InitialHead:
    """Add the heads of the notes beside images of a frozen backbone; the same head if no task has notes."""
    rows = [net.note_rows(support.inputs) for support in supports] if isinstance(net, BackboneNet) else []
    if head.collected is None or not any(map(note_head.has_notes, rows)):
        return head
    made = note_head.note_heads(supports, rows, head.extra[heads.LEVEL])
    weights = {**head.weights, heads.WEIGHT: torch.cat([head.weights[heads.WEIGHT], made.columns], dim=-1)}
    own = {note_head.CENTRE: made.centres, note_head.SPAN: made.spans}
    extra = {**head.extra, **own, heads.LEVEL: head.extra[heads.LEVEL] + made.levels}
    noted = zip(head.collected, rows, made.centres, made.spans, strict=True)
    collected = [replace(one, features=note_head.joined(one.features, *notes)) for one, *notes in noted]
    return replace(head, weights=weights, extra=extra, collected=collected)


def _batch(supports: Sequence[Support], rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs (tasks, batch, ...) and labels (tasks, batch) of one step."""
    inputs = torch.stack([support.inputs[drawn] for support, drawn in zip(supports, rows, strict=True)])
    labels = torch.stack([support.labels[drawn] for support, drawn in zip(supports, rows, strict=True)])
    return inputs, labels


def _gradients(
    net: Net,
    stacked: Weights,
    names: Sequence[str],
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    computation: GradientComputation,
    gaussian: GaussianStep,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each task's mean cross-entropy, (tasks,), and its gradient, name -> (tasks, ...), in one backward pass.

    With Gaussian weights, the cross-entropy is that of a sample, plus the penalty of `GaussianStep`.

    Weights that require gradients are part of an outer loop's graph, and so are their gradients. Gradients are taken
    with respect to views, so that a weight's gradient excludes paths through other weights made from it, such as
    prototypes.
    """
    images, labels, padding_mask, gain = batch
    create_graph = any(tensor.requires_grad for tensor in stacked.values())
    leaves = {
        name: stacked[name].view_as(stacked[name]) if create_graph else stacked[name].detach().requires_grad_()
        for name in names
    }
    weights = {**stacked, **leaves}

    def compute_losses() -> Tensor:
        features = gain * computation.features(net, gaussian.sample(weights), images)
        scores = heads.logits(weights, features, padding_mask)  # (tasks, batch, ways)
        by_image = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        return by_image.mean(1) + gaussian.penalty(weights)

    losses, gradients = computation.gradients(compute_losses, list(leaves.values()), create_graph=create_graph)
    return losses, dict(zip(names, gradients, strict=True))


def _detached(stacked: Weights) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in stacked.items()}
