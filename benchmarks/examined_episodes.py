"""Episodes for the examination's claims: a support, queries of its classes, images of classes it never taught.

It draws and examines; what the figures must reach is decided where they are printed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from models.adaptation.adapt import Company, adapt_one
from models.checkpoint import Checkpoint
from models.data.class_dataset import ClassDataset
from models.images.preprocessing import normalise
from models.inference.predict import fold_calibrated, predict_images
from models.task import Support
from models.validation.cross_validation import CrossValidatedAdaptation, CrossValidationResult, CrossValidator
from models.validation.folds import group_duplicates

STRANGE_CLASSES: Final = 5
STRANGE_IMAGES: Final = 10


@dataclass(frozen=True)
class EpisodeDraw:
    """How an episode is drawn.

    Attributes:
        ways: classes.
        shots: support images a class.
        queries: most query images a class.
        flipped: share of the support's labels that are replaced by another class's.
    """

    ways: int
    shots: int
    queries: int
    flipped: float = 0.0


@dataclass(frozen=True)
class Drawn:
    """One episode; images as the net sees them.

    Attributes:
        support: with the labels that the examination gets.
        groups: copies among the support.
        true_labels: int64 (samples,), before any was flipped.
        queries: float32 (queries, channels, side, side) and their labels.
        strange: float32 (images, channels, side, side), of up to five other classes.
    """

    support: Support
    groups: Tensor
    true_labels: Tensor
    queries: tuple[Tensor, Tensor]
    strange: Tensor


@dataclass(frozen=True)
class Outcome:
    """One episode, examined and judged.

    Attributes:
        examined: the version and its examination.
        confidence: (queries,), calibrated probability of the named class.
        right: bool (queries,).
        familiar: (queries,), familiarity of the queries.
        strange: (images,), familiarity of images of other classes.
        flips: bool (samples,), True where the label was replaced.
    """

    examined: CrossValidatedAdaptation
    confidence: Tensor
    right: Tensor
    familiar: Tensor
    strange: Tensor
    flips: Tensor

    @property
    def truth(self) -> float:
        """Accuracy on the queries."""
        return float(self.right.double().mean())


def draw(classes: ClassDataset, how: EpisodeDraw, checkpoint: Checkpoint, seed: int) -> Drawn:
    """Draw one episode, a function of its seed alone; classes need five images more than `shots`."""
    generator = torch.Generator().manual_seed(seed)
    spec = checkpoint.net_config.image
    usable = [index for index in range(len(classes)) if classes.count(index) >= how.shots + 5]
    order = [usable[place] for place in torch.randperm(len(usable), generator=generator).tolist()]
    support, queries, query_labels = [], [], []
    for label, index in enumerate(order[: how.ways]):
        images = classes.images(index)
        images = images[torch.randperm(len(images), generator=generator)][: how.shots + how.queries]
        support.append(images[: how.shots])
        queries.append(images[how.shots :])
        query_labels += [label] * (len(images) - how.shots)
    strange = []
    for index in order[how.ways : how.ways + STRANGE_CLASSES]:
        images = classes.images(index)
        strange.append(images[torch.randperm(len(images), generator=generator)[:STRANGE_IMAGES]])
    true_labels = torch.arange(how.ways).repeat_interleave(how.shots)
    seen = torch.cat(support)
    return Drawn(
        support=Support(normalise(seen, spec), _flipped(true_labels, how, generator), how.ways),
        groups=group_duplicates(list(seen), flips=checkpoint.recipe.mirrors),
        true_labels=true_labels,
        queries=(normalise(torch.cat(queries), spec), torch.tensor(query_labels)),
        strange=normalise(torch.cat(strange), spec),
    )


def _flipped(labels: Tensor, how: EpisodeDraw, generator: torch.Generator) -> Tensor:
    count = round(how.flipped * len(labels))
    chosen = torch.randperm(len(labels), generator=generator)[:count]
    changed = labels.clone()
    changed[chosen] = (labels[chosen] + torch.randint(1, how.ways, (count,), generator=generator)) % how.ways
    return changed


def outcomes(
    classes: ClassDataset, how: EpisodeDraw, checkpoint: Checkpoint, seeds: range, company: Company
) -> Iterator[Outcome]:
    """Draw, examine and judge one episode a seed; episodes without an examination cannot come of these draws."""
    net = checkpoint.build_net()
    examiner = CrossValidator(net, checkpoint.weights, company)
    for seed in seeds:
        drawn = draw(classes, how, checkpoint, seed)
        examined = examiner.adapt_and_score(drawn.support, checkpoint.recipe, seed, drawn.groups)
        weights = fold_calibrated(examined.adapted.kept(), examined.adapted.statistics, found(examined).temperature)
        images, labels = drawn.queries
        judged, strange = predict_images(net, weights, images), predict_images(net, weights, drawn.strange)
        confidence, named = judged.probabilities.max(-1)
        yield Outcome(
            examined=examined,
            confidence=confidence,
            right=named == labels,
            familiar=_known(judged.in_distribution),
            strange=_known(strange.in_distribution),
            flips=drawn.support.labels != drawn.true_labels,
        )


def found(examined: CrossValidatedAdaptation) -> CrossValidationResult:
    """The examination, which every drawn episode has."""
    if isinstance(examined.validation, CrossValidationResult):
        return examined.validation
    raise ValueError(f"an episode without an examination: {examined.validation.reason}; draw two shots or more")


def _known(familiarity: Tensor | None) -> Tensor:
    if familiarity is None:
        raise ValueError("the version keeps no class means; adapt it with this release")
    return familiarity


def timed(drawn: Drawn, checkpoint: Checkpoint, seed: int, company: Company) -> tuple[float, float]:
    """Seconds of one adaptation without and one with examination, of the same support, one after the other."""
    net = checkpoint.build_net()
    began = time.perf_counter()
    adapt_one(net, checkpoint.weights, drawn.support, checkpoint.recipe, seed)
    alone_s = time.perf_counter() - began
    CrossValidator(net, checkpoint.weights, company).adapt_and_score(
        drawn.support, checkpoint.recipe, seed, drawn.groups
    )
    return alone_s, time.perf_counter() - began - alone_s
