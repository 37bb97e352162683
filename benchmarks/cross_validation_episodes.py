"""Episodes for the cross-validation benchmark: a support, queries of its classes, and images of unknown classes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from models.adaptation.adapt import BatchingOptions, adapt_one
from models.checkpoint import Checkpoint
from models.data.class_dataset import ClassDataset
from models.images.preprocessing import normalise
from models.inference.predict import Predictions, fold_calibrated, predict_images
from models.task import Support
from models.validation.cross_validation import CrossValidatedAdaptation, CrossValidationResult, CrossValidator
from models.validation.folds import group_duplicates

UNKNOWN_CLASSES: Final = 5
UNKNOWN_IMAGES: Final = 10


@dataclass(frozen=True)
class EpisodeSettings:
    """How an episode is episode.

    Attributes:
        ways: number of classes.
        shots: support images per class.
        queries: maximum query images per class.
        flipped: share of support labels that are replaced by another class.
    """

    ways: int
    shots: int
    queries: int
    flipped: float = 0.0


@dataclass(frozen=True)
class Episode:
    """One episode with preprocessed images.

    Attributes:
        support: support with possibly flipped labels.
        groups: near-duplicates in the support.
        true_labels: int64 (samples,), without flips.
        queries: float32 (queries, channels, side, side), and labels.
        unknown: float32 (images, channels, side, side), of up to five other classes.
    """

    support: Support
    groups: Tensor
    true_labels: Tensor
    queries: tuple[Tensor, Tensor]
    unknown: Tensor


@dataclass(frozen=True)
class EpisodeResult:
    """Results of one episode.

    Attributes:
        validated: the version and its cross-validation.
        confidence: (queries,), calibrated probability of the predicted class.
        correct: bool (queries,).
        known: (queries,), in-distribution scores of the queries.
        unknown: (images,), in-distribution scores of images of other classes.
        flips: bool (samples,), True for replaced labels.
    """

    validated: CrossValidatedAdaptation
    confidence: Tensor
    correct: Tensor
    known: Tensor
    unknown: Tensor
    flips: Tensor

    @property
    def truth(self) -> float:
        """Accuracy on the queries."""
        return float(self.correct.double().mean())


def draw(classes: ClassDataset, settings: EpisodeSettings, checkpoint: Checkpoint, seed: int) -> Episode:
    """Sample the episode of a seed; classes need five images more than `shots`."""
    generator = torch.Generator().manual_seed(seed)
    spec = checkpoint.net_config.image
    usable = [index for index in range(len(classes)) if classes.count(index) >= settings.shots + 5]
    order = [usable[place] for place in torch.randperm(len(usable), generator=generator).tolist()]
    support, queries, query_labels = [], [], []
    for label, index in enumerate(order[: settings.ways]):
        images = classes.images(index)
        images = images[torch.randperm(len(images), generator=generator)][: settings.shots + settings.queries]
        support.append(images[: settings.shots])
        queries.append(images[settings.shots :])
        query_labels += [label] * (len(images) - settings.shots)
    unknown = []
    for index in order[settings.ways : settings.ways + UNKNOWN_CLASSES]:
        images = classes.images(index)
        unknown.append(images[torch.randperm(len(images), generator=generator)[:UNKNOWN_IMAGES]])
    true_labels = torch.arange(settings.ways).repeat_interleave(settings.shots)
    seen = torch.cat(support)
    return Episode(
        support=Support(normalise(seen, spec), _flipped(true_labels, settings, generator), settings.ways),
        groups=group_duplicates(list(seen), flips=checkpoint.recipe.flip_augment),
        true_labels=true_labels,
        queries=(normalise(torch.cat(queries), spec), torch.tensor(query_labels)),
        unknown=normalise(torch.cat(unknown), spec),
    )


def _flipped(labels: Tensor, settings: EpisodeSettings, generator: torch.Generator) -> Tensor:
    count = round(settings.flipped * len(labels))
    chosen = torch.randperm(len(labels), generator=generator)[:count]
    changed = labels.clone()
    changed[chosen] = (labels[chosen] + torch.randint(1, settings.ways, (count,), generator=generator)) % settings.ways
    return changed


def episode_results(
    classes: ClassDataset, settings: EpisodeSettings, checkpoint: Checkpoint, seeds: range, batching: BatchingOptions
) -> Iterator[EpisodeResult]:
    """Sample an episode per seed, cross-validate and predict it."""
    net = checkpoint.build_net()
    validator = CrossValidator(net, checkpoint.weights, batching)
    for seed in seeds:
        episode = draw(classes, settings, checkpoint, seed)
        validated = validator.adapt_and_score(episode.support, checkpoint.recipe, seed, episode.groups)
        weights = fold_calibrated(
            validated.adapted.kept(), validated.adapted.statistics, validation_of(validated).temperature
        )
        images, labels = episode.queries
        predictions, unknown = predict_images(net, weights, images), predict_images(net, weights, episode.unknown)
        confidence, predicted = predictions.probabilities.max(-1)
        yield EpisodeResult(
            validated=validated,
            confidence=confidence,
            correct=predicted == labels,
            known=_scores(predictions),
            unknown=_scores(unknown),
            flips=episode.support.labels != episode.true_labels,
        )


def validation_of(validated: CrossValidatedAdaptation) -> CrossValidationResult:
    """The cross-validation, which every episode has."""
    if isinstance(validated.validation, CrossValidationResult):
        return validated.validation
    raise ValueError(f"an episode has no cross-validation: {validated.validation.reason}; use two or more shots")


def _scores(predictions: Predictions) -> Tensor:
    if predictions.in_distribution is None:
        raise ValueError("the version has no class means; adapt it with this release")
    return predictions.in_distribution


def timed(episode: Episode, checkpoint: Checkpoint, seed: int, batching: BatchingOptions) -> tuple[float, float]:
    """Seconds of an adaptation without and with cross-validation of the same support."""
    net = checkpoint.build_net()
    began = time.perf_counter()
    adapt_one(net, checkpoint.weights, episode.support, checkpoint.recipe, seed)
    alone_s = time.perf_counter() - began
    CrossValidator(net, checkpoint.weights, batching).adapt_and_score(
        episode.support, checkpoint.recipe, seed, episode.groups
    )
    return alone_s, time.perf_counter() - began - alone_s
