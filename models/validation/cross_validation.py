"""Cross-validation of a version: accuracy estimate, temperature, "unknown" threshold and label issues.

Folds of the support are adapted in the same call as the version, and each predicts the samples that it held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.adapt import Adapted, BatchingOptions, InnerLoopInput, adapt_inputs
from models.adaptation.inner_loop import collect_statistics
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged
from models.inference.predict import fold_calibrated, logits_and_features
from models.meta.memory import TaskMemory
from models.nets import BackboneNet, Net
from models.nets.head_posterior import DRAWS, HeadPosterior, sampled_probabilities
from models.task import Support
from models.validation.calibration import (
    AccuracyEstimate,
    HeldOutLabels,
    estimate_accuracy,
    fit_averaged_temperature,
    fit_temperature,
)
from models.validation.folds import Folds, make_folds
from models.validation.label_issues import LabelIssue, find_label_issues
from models.validation.novelty import (
    UNKNOWN_SHARE,
    in_distribution_score,
    novelty_distance,
    unknown_threshold,
)
from models.validation.similarity import alike_classes
from models.weights import Weights

MAX_FOLDS = 3
"""More folds take more time and train on more samples."""

CHOICE_MARGIN = 3
"""Held-out samples by which a recipe must be better to be chosen over the first one."""

MEMORY_MARGIN = 2
"""The same for a recipe with a patch memory, which is far worse where it does not fit, and so rarely wins by chance."""

SkipCode = Literal["cross_validation_diverged", "one_part_per_class", "one_sample_per_class"]

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class HeldOutPrediction:
    """Prediction for a sample by the fold that held it out.

    Attributes:
        predicted: class index.
        confidence: calibrated probability of that class.
        in_distribution: see `novelty.in_distribution_score`.
    """

    predicted: int
    confidence: float
    in_distribution: float


@dataclass(frozen=True)
class CrossValidationResult:
    """Results from held-out predictions.

    Attributes:
        estimate: expected balanced accuracy on images like the samples, with its 95 % interval.
        confusion: int64 (n_way, n_way), held-out samples by label (row) and predicted class (column).
        temperature: logits are divided by it before the softmax.
        unknown_threshold: in-distribution score below which an image is unknown.
        label_issues: most likely first, with the class and confidence of their held-out predictions.
        alike: indices of the classes whose images nearly repeat each other, see `similarity.alike_classes`.
        held_out: one per sample; None for samples that no fold held out.
        folds: number of folds.
        train_share: share of the samples that a fold trained on, averaged over predictions.
    """

    estimate: AccuracyEstimate
    confusion: Tensor
    temperature: float
    unknown_threshold: float
    label_issues: tuple[LabelIssue, ...]
    alike: tuple[int, ...]
    held_out: tuple[HeldOutPrediction | None, ...]
    folds: int
    train_share: float


@dataclass(frozen=True, slots=True)
class CrossValidationSkipped:
    """Why there is no cross-validation: a stable code, and a text for the client."""

    code: SkipCode
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A version and the folds adapted with it, not scored yet.

    Attributes:
        adapted: the version.
        fold_results: one per fold.
        folds: which fold holds out which samples.
        support: the support of the version.
        recipe: the inner loop of the version.
        start: weights from a memory that the version started from; None means the start that all versions share.
    """

    adapted: Adapted
    fold_results: tuple[Adapted | AdaptationDiverged, ...]
    folds: Folds
    support: Support
    recipe: InnerLoopConfig
    start: Weights | None = None


@dataclass(frozen=True)
class CrossValidationPlan:
    """Inner loops to run for a version and its folds.

    Attributes:
        inputs: input of the version, then one per fold; and the same for every further recipe to choose from, and for
            all of them from the weights that a memory proposes.
        folds: which fold holds out which samples.
    """

    inputs: tuple[InnerLoopInput, ...]
    folds: Folds

    def candidates(self, results: Sequence[Adapted | AdaptationDiverged]) -> list[Candidate]:
        """Collect the results of `inputs`, in order: one candidate per recipe and start.

        A version that diverged from what a memory recalls is left out. A fold that diverged only lacks predictions.

        Raises:
            AdaptationDiverged: a version diverged from the start that all share.
        """
        found = []
        for first in range(0, len(results), self.folds.count + 1):
            version, *fold_results = results[first : first + self.folds.count + 1]
            given = self.inputs[first]
            if isinstance(version, AdaptationDiverged):
                if given.start is not None:
                    continue
                raise version
            found.append(Candidate(version, tuple(fold_results), self.folds, given.support, given.recipe, given.start))
        return found


@dataclass(frozen=True)
class CrossValidatedAdaptation:
    """A version and its cross-validation."""

    adapted: Adapted
    validation: CrossValidationResult | CrossValidationSkipped


@dataclass(frozen=True)
class CrossValidator:
    """Adapts a version together with cross-validation folds and scores it.

    On the CPU, a fold trains on fewer samples with proportionally fewer steps, so K folds cost about K - 1 further
    adaptations. On a GPU, where all run in one batch, folds take as many steps as the version.

    Attributes:
        net: the architecture.
        start: meta-trained weights, (...) each.
        batching: how the folds and the version share the machine.
        max_folds: maximum number of folds, from 2.
        task_memory: tasks that were adapted before. A version starts from what the nearest changed if its folds, which
            recall by their own samples, do not get worse; without folds, from the start.
    """

    net: Net
    start: Weights
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    max_folds: int = MAX_FOLDS
    task_memory: TaskMemory | None = None

    def adapt_and_score(
        self, support: Support, recipe: InnerLoopConfig, seed: int, groups: Tensor
    ) -> CrossValidatedAdaptation:
        """Call `adapt`, then `score`; raises what `adapt` raises."""
        candidate = self.adapt(support, recipe, seed, groups)
        return CrossValidatedAdaptation(candidate.adapted, self.score(candidate))

    def adapt(self, support: Support, recipe: InnerLoopConfig, seed: int, groups: Tensor) -> Candidate:
        """Adapt the version and its folds.

        Args:
            support: as for `plan`.
            recipe: as for `plan`.
            seed: as for `plan`.
            groups: as for `plan`.

        Raises:
            AdaptationDiverged: the version diverged.
        """
        plan = self.plan(support, recipe, seed, groups)
        return self.choose(plan.candidates(adapt_inputs(self.net, self.start, plan.inputs, self.batching)))

    def plan(self, support: Support, recipe: InnerLoopConfig, seed: int, groups: Tensor) -> CrossValidationPlan:
        """Plan the inner loops of a version and its folds.

        Args:
            support: all labelled images. Folds ignore its anchors.
            recipe: the inner loop of the version.
            seed: seed of the version; seeds of the folds are derived from it.
            groups: int64 (samples,), from `folds.group_samples`; a group is never divided.
        """
        labels = support.sample_labels.cpu()
        support = replace(support, groups=groups)
        folds = make_folds(labels, groups, self.max_folds, torch.Generator().manual_seed(seed))
        parts = [support.without(folds.test_mask(fold)) for fold in range(folds.count)]
        seeds = [(seed + 1 + fold) % _LARGEST_SEED for fold in range(folds.count)]
        inputs: list[InnerLoopInput] = []
        for one in self._recipes(recipe, support, parts):
            recipes = [_fold_recipe(one, len(part) / len(support), part.inputs.device) for part in parts]
            inputs += [InnerLoopInput(support, one, seed), *map(InnerLoopInput, parts, recipes, seeds)]
        return CrossValidationPlan((*inputs, *self._recalled(inputs)), folds)

    def _recipes(self, recipe: InnerLoopConfig, support: Support, parts: Sequence[Support]) -> list[InnerLoopConfig]:
        """The recipes to choose from, the preferred one first: several only for `feature_gains` "auto", with folds.

        Folds have fewer images than the version, and a few held-out ones decide. So images that seem to come from a
        fixed camera get a patch memory unless another recipe is better, and others only if it is better.
        """
        if recipe.feature_gains != "auto":
            return [recipe]
        plain, gains = replace(recipe, feature_gains="none"), replace(recipe, feature_gains="fisher")
        if not parts:
            return [plain]
        if recipe.steps or not isinstance(self.net, BackboneNet):
            return [plain, gains]
        if not all(map(self.net.can_remember, [support, *parts])):
            return [plain, gains]
        memory = replace(gains, patch_memory=True)
        return [memory, plain, gains] if self.net.is_aligned(support) else [plain, gains, memory]

    def _recalled(self, inputs: Sequence[InnerLoopInput]) -> list[InnerLoopInput]:
        """The same inputs with the starts that the memory proposes for their supports; none without a memory."""
        if self.task_memory is None or not len(self.task_memory):
            return []
        starts = [self.task_memory.start_for(self.net, self.start, given.support) for given in inputs]
        return [replace(given, start=start) for given, start in zip(inputs, starts, strict=True)]

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return the first candidate, unless another one predicts more held-out samples correctly, by a margin.

        The margin is `CHOICE_MARGIN`, or `MEMORY_MARGIN`. The balanced accuracy must not be lower either, so that a
        large class does not decide alone. A candidate that started from a memory of tasks needs no margin: it replaces
        the one from the shared start where there are folds and neither number is lower.
        """
        shared = [candidate for candidate in candidates if candidate.start is None]
        chosen = self._choose_recipe(shared)
        recalled = [each for each in candidates if each.start is not None and each.recipe == chosen.recipe]
        if not recalled or not chosen.folds.count:
            return chosen
        before, after = (self._held_out_scores(candidate) for candidate in (chosen, recalled[0]))
        return recalled[0] if after[0] >= before[0] and after[1] >= before[1] else chosen

    def _choose_recipe(self, candidates: Sequence[Candidate]) -> Candidate:
        if len(candidates) == 1:
            return candidates[0]
        scores = [self._held_out_scores(candidate) for candidate in candidates]
        best = max(range(len(candidates)), key=lambda index: scores[index])
        margin = MEMORY_MARGIN if candidates[best].recipe.patch_memory else CHOICE_MARGIN
        wins = scores[best][0] >= scores[0][0] + margin and scores[best][1] >= scores[0][1]
        return candidates[best if wins else 0]

    def _held_out_scores(self, candidate: Candidate) -> tuple[int, float]:
        """Held-out samples that are predicted correctly: their number, and the mean over classes of their share."""
        predictions = _predict_held_out(self.net, candidate.fold_results, candidate.support, candidate.folds)
        labels = candidate.support.sample_labels.cpu()[predictions.rows]
        correct = predictions.logits.argmax(-1) == labels
        shares = [float(correct[labels == label].float().mean()) for label in torch.unique(labels)]
        return int(correct.sum()), sum(shares) / max(1, len(shares))

    def score(
        self, candidate: Candidate, unknown_share: float = UNKNOWN_SHARE
    ) -> CrossValidationResult | CrossValidationSkipped:
        """Predict held-out samples and derive the estimate, calibration, "unknown" threshold and label issues.

        Args:
            candidate: from `adapt` or `CrossValidationPlan.candidate`.
            unknown_share: see `novelty.unknown_threshold`.
        """
        labels, folds = candidate.support.sample_labels.cpu(), candidate.folds
        predictions = _predict_held_out(self.net, candidate.fold_results, candidate.support, folds)
        if not len(predictions.rows):
            return _skipped(labels, folds)
        features = _start_features(self.net, self.start, candidate.support, candidate.recipe)
        label_issues = find_label_issues(features, labels, folds.groups, candidate.recipe.head_scale)
        alike = alike_classes(features, labels, folds.groups)
        given = labels[predictions.rows]
        draws = candidate.adapted.weights.get(DRAWS)
        probabilities, temperature = predictions.calibrated(given, None if draws is None else draws.cpu())
        calibrated = _Calibrated(predictions, probabilities, temperature)
        return _summarise(calibrated, labels, folds, label_issues, alike, unknown_share)


@dataclass(frozen=True)
class _HeldOutPredictions:
    """Predictions for held-out samples, on the CPU.

    Attributes:
        rows: int64 (predictions,), indices in the support, ascending.
        logits: (predictions, n_way).
        distances: (predictions,), see `novelty.novelty_distance`.
        train_share: share of the samples that folds trained on, averaged over predictions.
        deviations: (predictions, n_way), see `HeadPosterior.deviation`; None without a posterior.
    """

    rows: Tensor
    logits: Tensor
    distances: Tensor
    train_share: float
    deviations: Tensor | None = None

    def calibrated(self, labels: Tensor, draws: Tensor | None) -> tuple[Tensor, float]:
        """Probabilities (predictions, n_way) and the temperature that fits them best.

        Args:
            labels: int64 (predictions,).
            draws: of the version's `HeadPosterior`; None without.
        """
        logits, deviations = self.logits, self.deviations
        if draws is None or deviations is None:
            temperature = fit_temperature(logits, labels)
            return (logits / temperature).softmax(-1), temperature

        def averaged(temperature: float) -> Tensor:
            spread = deviations / temperature**0.5
            return sampled_probabilities(logits / temperature, spread, draws).mean(1)

        temperature = fit_averaged_temperature(averaged, labels)
        return averaged(temperature), temperature


def _fold_recipe(recipe: InnerLoopConfig, share: float, device: torch.device) -> InnerLoopConfig:
    if device.type != "cpu" or recipe.steps == 0:
        return recipe
    return replace(recipe, steps=max(1, round(recipe.steps * share)))


def _predict_held_out(
    net: Net, fold_results: Sequence[Adapted | AdaptationDiverged], support: Support, folds: Folds
) -> _HeldOutPredictions:
    """Predict each fold's held-out samples; a fold that diverged gives none."""
    rows, logits, distances, deviations, train_shares = [], [], [], [], []
    for fold, adapted in enumerate(fold_results):
        held_out = folds.test_mask(fold).nonzero().flatten()
        if isinstance(adapted, AdaptationDiverged) or not len(held_out):
            continue
        fold_logits, fold_distances = _predict(net, adapted, support.by_view[:, held_out.to(support.inputs.device)])
        rows.append(held_out)
        logits.append(fold_logits.cpu())
        distances.append(fold_distances.cpu())
        posterior = HeadPosterior.of(adapted.weights)
        deviations += [] if posterior is None else [posterior.deviation(fold_logits).float()]
        train_shares += [1 - len(held_out) / len(support.sample_labels)] * len(held_out)
    if not rows:
        empty = torch.zeros(0)
        return _HeldOutPredictions(empty.long(), torch.zeros(0, support.n_way), empty, 1.0)
    order = torch.cat(rows).argsort()
    return _HeldOutPredictions(
        torch.cat(rows)[order],
        torch.cat(logits)[order],
        torch.cat(distances)[order],
        sum(train_shares) / len(train_shares),
        torch.cat(deviations)[order] if deviations else None,
    )


def _predict(net: Net, adapted: Adapted, views: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, (inputs, n_way), and novelty distances, (inputs,), as a prediction computes them.

    Args:
        net: the architecture.
        adapted: a fold.
        views: the inputs in every view, (views, inputs, ...).
    """
    single = {name: tensor[None] for name, tensor in fold_calibrated(adapted.kept(), adapted.statistics).items()}
    images, turned = views[:1], views[-1:]  # (1, inputs, ...)
    with torch.no_grad():
        logits, features = logits_and_features(net, single, images, turned if len(views) > 1 else None)
        return logits[0], novelty_distance(single, images, features, logits)[0]


def _start_features(net: Net, start: Weights, support: Support, recipe: InnerLoopConfig) -> Tensor:
    """Features of the support under the meta-trained weights, averaged over mirror images: (samples, features), CPU."""
    augmented = support.with_flips() if recipe.flip_augment else support
    with torch.no_grad():
        (measured,) = collect_statistics(net, weight_ops.expand(start, 1), [augmented.inputs])
    views = measured.features.view(augmented.views, -1, measured.features.shape[-1])  # (views, samples, features)
    return views.mean(0).cpu()


@dataclass(frozen=True)
class _Calibrated:
    """Held-out predictions with their probabilities, (predictions, n_way), and the temperature of these."""

    predictions: _HeldOutPredictions
    probabilities: Tensor
    temperature: float


def _summarise(
    calibrated: _Calibrated,
    labels: Tensor,
    folds: Folds,
    label_issues: tuple[LabelIssue, ...],
    alike: tuple[int, ...],
    unknown_share: float,
) -> CrossValidationResult:
    predictions = calibrated.predictions
    given, n_way = labels[predictions.rows], predictions.logits.shape[1]
    confidence, predicted = calibrated.probabilities.max(-1)
    scores = in_distribution_score(confidence, predictions.distances)
    judged = HeldOutLabels(predicted == given, given, folds.groups[predictions.rows])
    confusion = torch.zeros(n_way, n_way, dtype=torch.int64)
    confusion.index_put_((given, predicted), torch.ones_like(given), accumulate=True)
    held_out: list[HeldOutPrediction | None] = [None] * len(labels)
    columns = zip(predictions.rows.tolist(), predicted.tolist(), confidence.tolist(), scores.tolist(), strict=True)
    for row, *prediction in columns:
        held_out[row] = HeldOutPrediction(*prediction)
    confirmed = [
        LabelIssue(issue.sample, found.predicted, found.confidence)
        for issue in label_issues
        if (found := held_out[issue.sample]) is not None and found.predicted != labels[issue.sample]
    ]
    return CrossValidationResult(
        estimate=estimate_accuracy(judged, predictions.train_share, n_way),
        confusion=confusion,
        temperature=calibrated.temperature,
        unknown_threshold=unknown_threshold(scores, unknown_share),
        label_issues=tuple(confirmed),
        alike=alike,
        held_out=tuple(held_out),
        folds=folds.count,
        train_share=predictions.train_share,
    )


def _skipped(labels: Tensor, folds: Folds) -> CrossValidationSkipped:
    if folds.count:
        return CrossValidationSkipped(
            "cross_validation_diverged",
            "the adaptation diverged in every cross-validation fold; try a lower learning_rate or fewer steps",
        )
    if len(torch.unique(folds.groups)) < len(labels):
        return CrossValidationSkipped(
            "one_part_per_class",
            "each class has pictures of one part only, or copies of one picture; cross-validation needs two different "
            "parts of a class",
        )
    return CrossValidationSkipped(
        "one_sample_per_class", "every class has one sample; cross-validation needs two or more samples of a class"
    )
