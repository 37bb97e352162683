"""The examination: how good a version is on samples that it has not seen, and which of its labels look wrong.

Folds of the support are adapted beside the version itself, in one call, and each judges the samples that it left out.
It knows tensors and class indices; whether a version goes live is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models import weights as algebra
from models.adaptation.adapt import ALONE, Adapted, Company, InnerLoopInput, adapt_inputs
from models.adaptation.inner_loop import collect_statistics
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged
from models.inference.predict import class_means_gain
from models.nets import Net, call_net, heads
from models.task import Support
from models.validation.calibration import Estimate, estimate_accuracy, fit_temperature, unknown_threshold
from models.validation.folds import Folds, make_folds
from models.validation.label_issues import Suspect, find_label_issues
from models.weights import Weights

MOST_FOLDS = 3
"""More folds cost more time and learn from more samples; see `CrossValidator`."""

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class HeldOut:
    """What a fold says of a sample that it left out.

    Attributes:
        predicted: class index.
        confidence: its calibrated probability.
        familiarity: see `heads.familiarity`.
    """

    predicted: int
    confidence: float
    familiarity: float


@dataclass(frozen=True)
class CrossValidation:
    """What left-out samples tell of a version.

    Attributes:
        estimate: accuracy to expect on images like the samples, in their proportions, with its 95 % interval.
        confusion: int64 (n_way, n_way), left-out samples by label (row) and by what their fold called them.
        temperature: what logits are divided by before the softmax.
        unknown_threshold: familiarity below which an image is unknown.
        suspects: most suspect first.
        held_out: one a sample; None for what was never left out.
        folds: how many were adapted.
        trained_share: samples that a fold learned from, as a share of all.
    """

    estimate: Estimate
    confusion: Tensor
    temperature: float
    unknown_threshold: float
    suspects: tuple[Suspect, ...]
    held_out: tuple[HeldOut | None, ...]
    folds: int
    trained_share: float


@dataclass(frozen=True)
class NotCrossValidated:
    """Why there is none, in a sentence for the client."""

    reason: str


@dataclass(frozen=True)
class Candidate:
    """A version and, adapted beside it, the folds that will examine it.

    Attributes:
        adapted: the version.
        folds: one result a fold.
        plan: who was left out where.
        support: what the version was adapted on.
        recipe: of the version.
    """

    adapted: Adapted
    folds: tuple[Adapted | AdaptationDiverged, ...]
    plan: Folds
    support: Support
    recipe: InnerLoopConfig


@dataclass(frozen=True)
class Plan:
    """What is to be run for a version and its folds.

    Attributes:
        loops: the version's, then one a fold.
        folds: who is left out where.
    """

    loops: tuple[InnerLoopInput, ...]
    folds: Folds

    def candidate(self, results: Sequence[Adapted | AdaptationDiverged]) -> Candidate:
        """What came of the loops, in their order.

        Raises:
            AdaptationDiverged: of the version; folds that diverge only leave their samples unjudged.
        """
        version, *others = results
        if isinstance(version, AdaptationDiverged):
            raise version
        return Candidate(version, tuple(others), self.folds, self.loops[0].support, self.loops[0].recipe)


@dataclass(frozen=True)
class ValidatedAdaptation:
    """A version and what its examination found."""

    adapted: Adapted
    examination: CrossValidation | NotCrossValidated


@dataclass(frozen=True)
class CrossValidator:
    """Adapts with an examination.

    A fold learns from fewer samples and takes proportionally fewer steps, so that K folds cost K - 1 adaptations
    more. On a GPU, where all go through the net together, it takes as many steps as the version.

    Attributes:
        net: its architecture.
        start: the meta-trained weights, (...) each.
        company: how folds and version share the machine.
        most_folds: from 2; fewer samples make fewer folds.
    """

    net: Net
    start: Weights
    company: Company = ALONE
    most_folds: int = MOST_FOLDS

    def examine(self, support: Support, recipe: InnerLoopConfig, seed: int, groups: Tensor) -> ValidatedAdaptation:
        """`adapt`, then `conclude`; raises what `adapt` raises."""
        candidate = self.adapt(support, recipe, seed, groups)
        return ValidatedAdaptation(candidate.adapted, self.conclude(candidate))

    def adapt(self, support: Support, recipe: InnerLoopConfig, seed: int, groups: Tensor) -> Candidate:
        """Run what `plan` says; raises what `Plan.candidate` raises."""
        plan = self.plan(support, recipe, seed, groups)
        return plan.candidate(adapt_inputs(self.net, self.start, plan.loops, self.company))

    def plan(self, support: Support, recipe: InnerLoopConfig, seed: int, groups: Tensor) -> Plan:
        """Plan to adapt to the support, and to its folds beside it.

        Args:
            support: all labelled images; its anchors, if any, are not used by folds.
            recipe: of the version.
            seed: of the version's draws; the folds' are derived from it.
            groups: int64 (samples,), from `folds.copies`: samples of one group are never divided.
        """
        labels = support.labels.cpu()
        folds = make_folds(labels, groups, self.most_folds, torch.Generator().manual_seed(seed))
        parts = [_without(support, folds.left_out(fold)) for fold in range(folds.count)]
        recipes = [self._fold_recipe(recipe, len(part) / len(support), part.images.device) for part in parts]
        seeds = [(seed + 1 + fold) % _LARGEST_SEED for fold in range(folds.count)]
        return Plan((InnerLoopInput(support, recipe, seed), *map(InnerLoopInput, parts, recipes, seeds)), folds)

    def conclude(self, candidate: Candidate) -> CrossValidation | NotCrossValidated:
        """Let the folds judge what they left out, and draw conclusions."""
        labels, plan = candidate.support.labels.cpu(), candidate.plan
        judged = _judge_left_out(self.net, candidate.folds, candidate.support, plan)
        if not len(judged.rows):
            return NotCrossValidated(_why_not(labels, plan))
        features = _start_features(self.net, self.start, candidate.support, candidate.recipe)
        suspects = find_label_issues(features, labels, plan.groups, candidate.recipe.head_scale)
        return _conclude(judged, labels, plan.groups, suspects, plan.count)

    def _fold_recipe(self, recipe: InnerLoopConfig, share: float, device: torch.device) -> InnerLoopConfig:
        if device.type != "cpu" or recipe.steps == 0:
            return recipe
        return replace(recipe, steps=max(1, round(recipe.steps * share)))


@dataclass(frozen=True)
class _Judged:
    """Answers on left-out samples, on the CPU.

    Attributes:
        rows: int64 (answers,), places in the support, ascending.
        logits: (answers, n_way).
        distances: (answers,), see `heads.distance_to_own`.
        trained_share: samples that folds learned from, as a share of all; the mean over answers.
    """

    rows: Tensor
    logits: Tensor
    distances: Tensor
    trained_share: float


def _without(support: Support, left_out: Tensor) -> Support:
    kept = ~left_out.to(support.images.device)
    return Support(support.images[kept], support.labels[kept], support.n_way)


def _judge_left_out(net: Net, folds: Sequence[Adapted | AdaptationDiverged], support: Support, plan: Folds) -> _Judged:
    """Each fold's answers on what it left out; a fold that diverged gives none."""
    rows, logits, distances, trained = [], [], [], []
    for fold, adapted in enumerate(folds):
        own = plan.left_out(fold).nonzero().flatten()
        if isinstance(adapted, AdaptationDiverged) or not len(own):
            continue
        scores, distance = _answers(net, adapted, support.images[own.to(support.images.device)])
        rows.append(own)
        logits.append(scores.cpu())
        distances.append(distance.cpu())
        trained += [1 - len(own) / len(support)] * len(own)
    if not rows:
        nothing = torch.zeros(0)
        return _Judged(nothing.long(), torch.zeros(0, support.n_way), nothing, 1.0)
    order = torch.cat(rows).argsort()
    return _Judged(
        torch.cat(rows)[order], torch.cat(logits)[order], torch.cat(distances)[order], sum(trained) / len(trained)
    )


def _answers(net: Net, adapted: Adapted, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, (images, n_way), and distances to the likeliest class, (images,)."""
    weights = {**adapted.weights, heads.MEANS: adapted.means, heads.GAIN: class_means_gain(adapted.means)}
    single = {name: tensor[None] for name, tensor in weights.items()}
    statistics = {name: tensor[None] for name, tensor in adapted.statistics.items()}
    with torch.no_grad():
        features = call_net(net, single, images[None], statistics)
        scores = heads.logits(single, features)
        return scores[0], heads.distance_to_own(single, features, scores)[0]


def _start_features(net: Net, start: Weights, support: Support, recipe: InnerLoopConfig) -> Tensor:
    """Features of the support under the meta-trained weights, on the CPU: (samples, features); means over mirrors."""
    seen = support.mirrored() if recipe.mirrors else support
    with torch.no_grad():
        (measured,) = collect_statistics(net, algebra.expand(start, 1), [seen.images])
    views = measured.features[0].view(-1, len(support), measured.features.shape[-1])  # (views, samples, features)
    return views.mean(0).cpu()


def _conclude(
    judged: _Judged, labels: Tensor, groups: Tensor, suspects: tuple[Suspect, ...], folds: int
) -> CrossValidation:
    own, n_way = labels[judged.rows], judged.logits.shape[1]
    temperature = fit_temperature(judged.logits, own)
    confidence, predicted = (judged.logits / temperature).softmax(-1).max(-1)
    familiarity = heads.familiarity(confidence, judged.distances)
    copies = torch.bincount(groups[judged.rows])[groups[judged.rows]]
    confusion = torch.zeros(n_way, n_way, dtype=torch.int64)
    confusion.index_put_((own, predicted), torch.ones_like(own), accumulate=True)
    held_out: list[HeldOut | None] = [None] * len(labels)
    for place, row in enumerate(judged.rows.tolist()):
        held_out[row] = HeldOut(int(predicted[place]), float(confidence[place]), float(familiarity[place]))
    return CrossValidation(
        estimate=estimate_accuracy(predicted == own, 1 / copies, judged.trained_share, n_way),
        confusion=confusion,
        temperature=temperature,
        unknown_threshold=unknown_threshold(familiarity),
        suspects=suspects,
        held_out=tuple(held_out),
        folds=folds,
        trained_share=judged.trained_share,
    )


def _why_not(labels: Tensor, plan: Folds) -> str:
    if plan.count:
        return "the net diverged without each part of the samples; a lower learning_rate or fewer steps may help"
    if len(torch.unique(plan.groups)) < len(labels):
        return "every class has one picture, or copies of one; two different pictures of a class allow an estimate"
    return "every class has one sample; with two or more of a class one can be left out and judged"
