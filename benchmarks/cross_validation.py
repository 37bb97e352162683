"""Cross-validation: honesty of the estimate, detection of wrong labels, calibration of verdicts, and cost.

    python benchmarks/cross_validation.py --data-root FOLDER [--part honesty flips verdicts time] [--episodes 100]

Data: Omniglot's test characters with the checkpoint ``omniglot``; X-SDD and procedural textures with seeds that no
training used, with ``surfaces``; with ``--data NAME.zip --checkpoint efficientnet-lite0``, sets of images with a frozen
backbone. No checkpoint was trained on these classes. Episodes are 5-way with up to ``--queries`` queries per class;
unknown images come from up to five further classes. ``--fit`` prints the values for
`models.validation.calibration.LearningCurvePrior`.
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

from benchmarks.embedded_sets import (
    EmbeddedSet,
    Episode,
    Shape,
    draw_episode,
    embed_dataset,
    embed_for,
    queries_of,
    read_set,
    support_of,
    turned_of,
)
from benchmarks.figures import Parser, auroc, machine, machine_line, markdown, milliseconds, script
from benchmarks.measuring import Times
from models.adaptation.adapt import BatchingOptions, adapt_one
from models.adaptation.executor import FairExecutor
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.registry import open_dataset
from models.errors import DatasetUnavailable
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
from service.cli.train import CACHE

WAYS: Final = 5
FLIPPED: Final = 0.2
PARTS: Final = ("honesty", "verdicts", "flips", "time")
RATES: Final = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
SPREADS: Final = (1.0, 1.15, 1.3, 1.6, 2.0)
KNOWN_LOST: Final = 0.05
MAX_CLASSES: Final = 400
DATASETS: Final = ("omniglot", "textures")


@dataclass(frozen=True)
class Source:
    """Images as inputs of a checkpoint's net, and the checkpoint to adapt."""

    data: EmbeddedSet
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Draw:
    """An episode with labels that may be wrong.

    Attributes:
        episode: rows of the data.
        support: with possibly flipped labels.
        groups: int64 (samples,), the object that each sample shows.
    """

    episode: Episode
    support: Support
    groups: Tensor


@dataclass(frozen=True)
class EpisodeResult:
    """Results of one episode.

    Attributes:
        validated: the version and its cross-validation.
        truth: mean over classes of the accuracy on the queries.
        confidence: (queries,), calibrated probability of the predicted class.
        correct: bool (queries,).
        known: (queries,), in-distribution scores of the queries.
        unknown: (images,), in-distribution scores of images of other classes.
        flips: bool (samples,), True for replaced labels.
    """

    validated: CrossValidatedAdaptation
    truth: float
    confidence: Tensor
    correct: Tensor
    known: Tensor
    unknown: Tensor
    flips: Tensor


def draw(data: EmbeddedSet, shape: Shape, seed: int, flipped: float = 0.0) -> Draw:
    """Sample the episode of a seed; `flipped` is the share of support labels that another class replaces."""
    episode, generator = draw_episode(data, shape, seed), torch.Generator().manual_seed(seed)
    labels = _flipped(episode.labels, flipped, generator)
    return Draw(episode, support_of(data, episode, labels), data.groups[episode.support.flatten()])


def _flipped(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    count, ways = round(share * len(labels)), int(labels.max()) + 1
    chosen = torch.randperm(len(labels), generator=generator)[:count]
    changed = labels.clone()
    changed[chosen] = (labels[chosen] + torch.randint(1, ways, (count,), generator=generator)) % ways
    return changed


def episode_results(
    source: Source, shape: Shape, seeds: range, batching: BatchingOptions, flipped: float = 0.0
) -> Iterator[EpisodeResult]:
    """Sample an episode per seed, cross-validate and predict it."""
    data, checkpoint = source.data, source.checkpoint
    net = checkpoint.build_net()
    validator = CrossValidator(net, checkpoint.weights, batching)
    for seed in seeds:
        drawn = draw(data, shape, seed, flipped)
        episode = drawn.episode
        validated = validator.adapt_and_score(drawn.support, checkpoint.recipe, seed, drawn.groups)
        weights = fold_calibrated(
            validated.adapted.kept(), validated.adapted.statistics, validation_of(validated).temperature
        )
        images = torch.cat([episode.queries, episode.others])
        predictions = predict_images(net, weights, queries_of(data, images), turned_of(data, images))
        known, unknown = _scores(predictions).tensor_split([len(episode.queries)])
        confidence, predicted = predictions.probabilities[: len(known)].max(-1)
        yield EpisodeResult(
            validated=validated,
            truth=episode.accuracy(predicted),
            confidence=confidence,
            correct=predicted == episode.query_labels,
            known=known,
            unknown=unknown,
            flips=drawn.support.sample_labels != episode.labels,
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
    parser.add_argument("--data-root", type=Path, help="folder with omniglot/ and the .zip files")
    parser.option("--part", list(PARTS), "parts to run", choices=PARTS)
    parser.option("--data", ["omniglot", "x_sdd.zip", "textures"], f"{', '.join(DATASETS)}, or .zip files")
    parser.option("--checkpoint", "surfaces", "checkpoint for all data but characters")
    parser.option("--omniglot", "omniglot", "checkpoint for characters")
    parser.option("--most", 300, "images of a class in a .zip; of larger classes, so many are drawn", least=2)
    parser.add_argument("--cache", type=Path, help="folder that keeps features between runs (default: none)")
    parser.option("--shots", [5, 10], "support images per class")
    parser.option("--episodes", 100, "episodes per dataset and number of shots", least=2)
    parser.option("--queries", 40, "maximum number of queries per class")
    parser.option("--rounds", 15, "timed rounds")
    parser.option("--threads", 2, "parallel inner loops")
    parser.option("--seed", 0, "seed of the first episode")
    parser.add_argument("--fit", action="store_true", help="fit the constants (default of --data: omniglot textures)")
    parser.json()
    arguments = parser.parse_args()
    if arguments.fit and arguments.data == parser.get_default("data"):
        arguments.data = list(DATASETS)
    return arguments


def sources(arguments: argparse.Namespace) -> Iterator[Source]:
    """The data as inputs of the checkpoints. With ``--fit``, classes that generated data is meta-trained on."""
    for name in arguments.data:
        checkpoint = load_checkpoint(arguments.omniglot if name == "omniglot" else arguments.checkpoint)
        if name in DATASETS:
            splits = open_dataset(name, checkpoint.net_config.image, arguments.data_root, CACHE)
            data = embed_dataset(splits.train if arguments.fit else splits.test, checkpoint, MAX_CLASSES)
        else:
            if arguments.data_root is None:
                raise DatasetUnavailable(f"{name} needs --data-root, the folder that contains it")
            data = embed_for(read_set(arguments.data_root / name, arguments.most), checkpoint, arguments.cache)
        yield Source(data, checkpoint)


def run_episodes(
    source: Source, arguments: argparse.Namespace, shots: int, flipped: float = 0.0
) -> list[EpisodeResult]:
    """The episodes of one row."""
    shape = Shape(WAYS, shots, arguments.queries)
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    batching = BatchingOptions(executor=FairExecutor(arguments.threads))
    each = episode_results(source, shape, seeds, batching, flipped)
    return list(track(each, f"{source.data.name}, {shots} shots", len(seeds), console=Console(stderr=True)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tables of all parts, and the machine."""
    record: dict[str, Any] = {"machine": machine(arguments.checkpoint), "tables": []}
    honesty, verdicts, flips, seconds = [], [], [], []
    for source in sources(arguments):
        for shots in arguments.shots:
            if {"honesty", "verdicts"} & set(arguments.part):
                results = run_episodes(source, arguments, shots)
                honesty.append((source.data.name, str(shots), *honesty_row(results)))
                verdicts.append((source.data.name, str(shots), *verdict_row(results)))
        if "flips" in arguments.part:
            flips.append((source.data.name, *flip_row(run_episodes(source, arguments, max(arguments.shots), FLIPPED))))
        if "time" in arguments.part:
            seconds.append((source.data.name, *time_row(source, arguments)))
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
    "other classes found at 5 % of known",
)


def verdict_row(results: Sequence[EpisodeResult]) -> tuple[str, ...]:
    """Calibration over the queries of all episodes; the others are means over episodes.

    The last column is at the threshold that calls exactly 5 % of the queries unknown; the two before it, at the
    threshold of the version. Without other classes, the columns about them are empty.
    """
    error = expected_calibration_error(
        torch.cat([result.confidence for result in results]), torch.cat([result.correct for result in results])
    )
    thresholds = [validation_of(result.validated).unknown_threshold for result in results]
    pairs = list(zip(results, thresholds, strict=True))
    calibration = f"{100 * error:.1f} %"
    known = percent(float((result.known < least).double().mean()) for result, least in pairs)
    if not all(len(result.unknown) for result in results):
        return (calibration, "", known, "", "")
    return (
        calibration,
        f"{statistics.fmean(auroc(result.known, result.unknown) for result in results):.3f}",
        known,
        percent(float((result.unknown < least).double().mean()) for result, least in pairs),
        percent(float((result.unknown < result.known.quantile(KNOWN_LOST)).double().mean()) for result in results),
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
    shape, batching = Shape(WAYS, 10, 1), BatchingOptions(executor=FairExecutor(arguments.threads))
    net, checkpoint, without, validating = source.checkpoint.build_net(), source.checkpoint, Times(), Times()
    validator = CrossValidator(net, checkpoint.weights, batching)
    for number in range(arguments.rounds + 1):
        drawn = draw(source.data, shape, arguments.seed + number)
        support, recipe = drawn.support, checkpoint.recipe
        without.measure(partial(adapt_one, net, checkpoint.weights, support, recipe, number))
        validating.measure(partial(validator.adapt_and_score, support, recipe, number, drawn.groups))
    pairs = list(zip(without.elapsed_s, validating.elapsed_s, strict=True))[1:]  # the first round warms up
    return (
        f"{milliseconds([without_s for without_s, _ in pairs], decimals=0)} ms",
        f"{milliseconds([with_s for _, with_s in pairs], decimals=0)} ms",
        f"{statistics.median(with_s / without_s for without_s, with_s in pairs):.2f}",
    )


def fit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mean error by rate, and coverage by variance factor at the default rate, on meta-training classes."""
    results = [
        (f"{source.data.name}, {shots} shots", run_episodes(source, arguments, shots))
        for source in sources(arguments)
        for shots in arguments.shots
    ]
    rates = [(name, *(f"{100 * mean_error(episodes, rate):+.2f}" for rate in RATES)) for name, episodes in results]
    spreads = [
        (name, *(f"{100 * coverage(episodes, spread):.1f} %" for spread in SPREADS)) for name, episodes in results
    ]
    return {
        "machine": machine(arguments.checkpoint),
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
