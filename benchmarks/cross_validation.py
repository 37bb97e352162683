"""Cross-validation: honesty of the estimate, detection of wrong labels, calibration of verdicts, and cost.

    python benchmarks/cross_validation.py --data-root FOLDER [--part honesty flips verdicts time] [--episodes 100]

Data: Omniglot's test characters with the checkpoint ``omniglot``; X-SDD and procedural textures with seeds that no
training used, with ``surfaces``. Neither checkpoint was trained on these classes. Episodes are 5-way with up to
``--queries`` queries per class; unknown images come from up to five further classes. ``--fit`` prints the values for
`models.validation.calibration.LearningCurvePrior` from meta-training classes only.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.figures import Parser, auroc, machine, machine_line, markdown, milliseconds, script
from benchmarks.measuring import Times
from models.adaptation.adapt import BatchingOptions, adapt_one
from models.adaptation.executor import FairExecutor
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.registry import open_dataset
from models.images.preprocessing import normalise
from models.inference.predict import Predictions, fold_calibrated, predict_images
from models.task import Support
from models.validation.calibration import (
    DEFAULT_PRIOR,
    HeldOutLabels,
    LearningCurvePrior,
    estimate_accuracy,
    expected_calibration_error,
)
from models.validation.cross_validation import CrossValidatedAdaptation, CrossValidationResult, CrossValidator
from models.validation.folds import group_samples
from service.cli.train import CACHE

WAYS: Final = 5
FLIPPED: Final = 0.2
PARTS: Final = ("honesty", "verdicts", "flips", "time")
RATES: Final = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
SPREADS: Final = (1.0, 1.15, 1.3, 1.6, 2.0)
UNKNOWN_CLASSES: Final = 5
UNKNOWN_IMAGES: Final = 10


@dataclass(frozen=True)
class Source:
    """Classes, and the checkpoint to adapt."""

    name: str
    classes: ClassDataset
    checkpoint: Checkpoint


@dataclass(frozen=True)
class EpisodeSettings:
    """Shape of an episode.

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
        groups: samples of the support that are one picture.
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
        groups=group_samples(list(seen), [None] * len(seen), flips=checkpoint.recipe.flip_augment),
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


@script
def main() -> None:
    """Run the parts and print their tables."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    record = fit(arguments) if arguments.fit else measure(arguments)
    if arguments.json:
        print(json.dumps(record, indent=2))
        return
    print(machine_line(record["machine"]))
    print(
        f"5-way, {arguments.episodes} episodes from seed {arguments.seed}, up to {arguments.queries} queries per class"
    )
    for title, headings, rows in record["tables"]:
        print(f"\n{title}\n\n{markdown(headings, rows)}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--data-root", type=Path, help="folder with omniglot/ and x_sdd.zip")
    parser.option("--part", list(PARTS), "parts to run", choices=PARTS)
    parser.option("--data", ["omniglot", "folder:x_sdd.zip", "textures"], "datasets")
    parser.option("--surfaces", "surfaces", "checkpoint for surfaces")
    parser.option("--omniglot", "omniglot", "checkpoint for characters")
    parser.option("--shots", [5, 10], "support images per class")
    parser.option("--episodes", 100, "episodes per dataset and number of shots", least=2)
    parser.option("--queries", 40, "maximum number of queries per class")
    parser.option("--rounds", 15, "timed rounds")
    parser.option("--threads", 2, "parallel inner loops")
    parser.option("--seed", 0, "seed of the first episode")
    parser.add_argument("--fit", action="store_true", help="fit the constants on meta-training classes")
    parser.json()
    return parser.parse_args()


def sources(arguments: argparse.Namespace, *, training: bool = False) -> list[Source]:
    """Datasets with their checkpoints; with `training`, the classes that the checkpoints were trained on."""
    opened = []
    for name in ("omniglot", "textures") if training else arguments.data:
        checkpoint = load_checkpoint(arguments.omniglot if name == "omniglot" else arguments.surfaces)
        data = open_dataset(name, checkpoint.net_config.image, arguments.data_root, CACHE)
        opened.append(Source(name, data.train if training else data.test, checkpoint))
    return opened


def run_episodes(
    source: Source, arguments: argparse.Namespace, shots: int, flipped: float = 0.0
) -> list[EpisodeResult]:
    """The episodes of one row."""
    settings = EpisodeSettings(WAYS, shots, arguments.queries, flipped)
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    batching = BatchingOptions(executor=FairExecutor(arguments.threads))
    each = episode_results(source.classes, settings, source.checkpoint, seeds, batching)
    return list(track(each, f"{source.name}, {shots} shots", len(seeds), console=Console(stderr=True)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tables of all parts, and the machine."""
    record: dict[str, Any] = {"machine": machine(arguments.surfaces), "tables": []}
    honesty, verdicts, flips, seconds = [], [], [], []
    for source in sources(arguments):
        for shots in arguments.shots:
            if {"honesty", "verdicts"} & set(arguments.part):
                results = run_episodes(source, arguments, shots)
                honesty.append((source.name, str(shots), *honesty_row(results)))
                verdicts.append((source.name, str(shots), *verdict_row(results)))
        if "flips" in arguments.part:
            flips.append((source.name, *flip_row(run_episodes(source, arguments, max(arguments.shots), FLIPPED))))
        if "time" in arguments.part:
            seconds.append((source.name, *time_row(source, arguments)))
    for part, title, headings, rows in (
        ("honesty", "Estimate against the accuracy on queries", HONESTY, honesty),
        ("verdicts", "Verdicts", VERDICTS, verdicts),
        ("flips", f"Labels flipped: {FLIPPED:.0%}, {max(arguments.shots)} shots", FLIPS, flips),
        ("time", f"Adapting to 50 images, {arguments.threads} threads", TIME, seconds),
    ):
        if part in arguments.part:
            record["tables"].append((title, headings, rows))
    return record


HONESTY: Final = (
    "data",
    "shots",
    "estimate",
    "truth",
    "mean error",
    "mean absolute error",
    "interval covers",
    "interval width",
)


def honesty_row(results: Sequence[EpisodeResult]) -> tuple[str, ...]:
    """Means over episodes."""
    estimates = [validation_of(result.validated).estimate for result in results]
    errors = [estimate.accuracy - result.truth for estimate, result in zip(estimates, results, strict=True)]
    covered = [
        estimate.low <= result.truth <= estimate.high for estimate, result in zip(estimates, results, strict=True)
    ]
    return (
        percent(estimate.accuracy for estimate in estimates),
        percent(result.truth for result in results),
        f"{100 * statistics.fmean(errors):+.1f}",
        f"{100 * statistics.fmean(map(abs, errors)):.1f}",
        percent(map(float, covered)),
        percent(estimate.high - estimate.low for estimate in estimates),
    )


VERDICTS: Final = (
    "data",
    "shots",
    "calibration error",
    "AUROC",
    "known called unknown",
    "other classes called unknown",
)


def verdict_row(results: Sequence[EpisodeResult]) -> tuple[str, ...]:
    """Calibration over the queries of all episodes; the others are means over episodes."""
    error = expected_calibration_error(
        torch.cat([result.confidence for result in results]), torch.cat([result.correct for result in results])
    )
    thresholds = [validation_of(result.validated).unknown_threshold for result in results]
    pairs = list(zip(results, thresholds, strict=True))
    return (
        f"{100 * error:.1f} %",
        f"{statistics.fmean(auroc(result.known, result.unknown) for result in results):.3f}",
        percent(float((result.known < least).double().mean()) for result, least in pairs),
        percent(float((result.unknown < least).double().mean()) for result, least in pairs),
    )


FLIPS: Final = ("data", "flips found", "correct labels reported")


def flip_row(results: Sequence[EpisodeResult]) -> tuple[str, ...]:
    """Shares over all samples of all episodes."""
    counts = torch.zeros(2, 2)  # flipped or not, reported or not
    for result in results:
        suspected = torch.zeros_like(result.flips)
        suspected[[issue.sample for issue in validation_of(result.validated).label_issues]] = True
        for flipped in (False, True):
            reported = suspected[result.flips == flipped]
            counts[int(flipped)] += torch.tensor([float((~reported).sum()), float(reported.sum())])
    shares = counts[:, 1] / counts.sum(1)
    return (f"{100 * float(shares[1]):.1f} %", f"{100 * float(shares[0]):.1f} %")


TIME: Final = ("data", "without, p50", "with, p50", "ratio, median of rounds")


def time_row(source: Source, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Time an adaptation without and with cross-validation of the same support, alternately."""
    settings, batching = EpisodeSettings(WAYS, 10, 1), BatchingOptions(executor=FairExecutor(arguments.threads))
    net, checkpoint, without, validating = source.checkpoint.build_net(), source.checkpoint, Times(), Times()
    validator = CrossValidator(net, checkpoint.weights, batching)
    for number in range(arguments.rounds + 1):
        episode = draw(source.classes, settings, checkpoint, arguments.seed + number)
        support, recipe = episode.support, checkpoint.recipe
        without.measure(partial(adapt_one, net, checkpoint.weights, support, recipe, number))
        validating.measure(partial(validator.adapt_and_score, support, recipe, number, episode.groups))
    pairs = list(zip(without.elapsed_s, validating.elapsed_s, strict=True))[1:]  # the first round warms up
    return (
        f"{milliseconds([without_s for without_s, _ in pairs], decimals=0)} ms",
        f"{milliseconds([with_s for _, with_s in pairs], decimals=0)} ms",
        f"{statistics.median(with_s / without_s for without_s, with_s in pairs):.2f}",
    )


def fit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mean error by rate, and coverage by variance factor at the default rate, on meta-training classes."""
    results = [
        (f"{source.name}, {shots} shots", run_episodes(source, arguments, shots))
        for source in sources(arguments, training=True)
        for shots in arguments.shots
    ]
    rates = [(name, *(f"{100 * mean_error(episodes, rate):+.2f}" for rate in RATES)) for name, episodes in results]
    spreads = [
        (name, *(f"{100 * coverage(episodes, spread):.1f} %" for spread in SPREADS)) for name, episodes in results
    ]
    return {
        "machine": machine(arguments.surfaces),
        "tables": [
            ("Mean error in points by rate, meta-training classes", ("data", *map(str, RATES)), rates),
            (f"Coverage by variance factor, rate {DEFAULT_PRIOR.rate}", ("data", *map(str, SPREADS)), spreads),
        ],
    }


def mean_error(results: Sequence[EpisodeResult], rate: float) -> float:
    """Mean of estimate minus true accuracy at that rate."""
    return statistics.fmean(reestimate(result, LearningCurvePrior(rate)).accuracy - result.truth for result in results)


def coverage(results: Sequence[EpisodeResult], spread: float) -> float:
    """Share of episodes whose interval contains the true accuracy at that variance factor."""
    intervals = [reestimate(result, LearningCurvePrior(DEFAULT_PRIOR.rate, spread)) for result in results]
    held = [estimate.low <= result.truth <= estimate.high for estimate, result in zip(intervals, results, strict=True)]
    return statistics.fmean(map(float, held))


def reestimate(result: EpisodeResult, prior: LearningCurvePrior) -> Any:
    """The episode's estimate with other constants, from its confusion matrix."""
    validation = validation_of(result.validated)
    table = validation.confusion
    labels, predicted = table.nonzero().repeat_interleave(table[table > 0], 0).T
    held_out = HeldOutLabels(predicted == labels, labels, torch.arange(len(labels)))
    return estimate_accuracy(held_out, validation.train_share, len(table), prior)


def percent(shares: Iterable[float]) -> str:
    """The mean of shares."""
    return f"{100 * statistics.fmean(shares):.1f} %"


if __name__ == "__main__":
    main()
