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
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.cross_validation_episodes import (
    EpisodeResult,
    EpisodeSettings,
    draw,
    episode_results,
    timed,
    validation_of,
)
from benchmarks.figures import auroc, machine, machine_line, markdown, percentile
from benchmarks.running_service import ServiceOptions
from models.adaptation.adapt import BatchingOptions
from models.adaptation.executor import FairExecutor
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.registry import open_dataset
from models.errors import AnoleError
from models.validation.calibration import (
    DEFAULT_PRIOR,
    LearningCurvePrior,
    estimate_accuracy,
    expected_calibration_error,
)
from service.cli.train import CACHE

WAYS: Final = 5
FLIPPED: Final = 0.2
PARTS: Final = ("honesty", "verdicts", "flips", "time")
RATES: Final = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
SPREADS: Final = (1.0, 1.15, 1.3, 1.6, 2.0)


@dataclass(frozen=True)
class Source:
    """Classes, and the checkpoint to adapt."""

    name: str
    classes: ClassDataset
    checkpoint: Checkpoint


def main() -> None:
    """Run the parts and print their tables."""
    arguments = parsed()
    torch.set_num_threads(1)
    try:
        record = fitted(arguments) if arguments.fit else measured(arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps(record, indent=2))
        return
    print(machine_line(record["machine"]))
    print(
        f"5-way, {arguments.episodes} episodes from seed {arguments.seed}, up to {arguments.queries} queries per class"
    )
    for title, headings, rows in record["tables"]:
        print(f"\n{title}\n\n{markdown(headings, rows)}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None, help="folder with omniglot/ and x_sdd.zip")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--data", nargs="+", default=["omniglot", "folder:x_sdd.zip", "textures"], help="datasets")
    parser.add_argument("--surfaces", default="surfaces", help="checkpoint for surfaces (default: %(default)s)")
    parser.add_argument("--omniglot", default="omniglot", help="checkpoint for characters (default: %(default)s)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[5, 10], help="support images per class (default: 5 10)"
    )
    parser.add_argument("--episodes", type=int, default=100, help="per dataset and shots (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=40, help="maximum per class (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="parallel inner loops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--fit", action="store_true", help="fit the constants on meta-training classes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if arguments.episodes < 2:
        parser.error("a mean needs at least 2 episodes")
    return arguments


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


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tables of all parts, and the machine."""
    record: dict[str, Any] = {"machine": machine(ServiceOptions(arguments.surfaces)), "tables": []}
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
    """Time both sides alternately on the same support."""
    settings, batching = EpisodeSettings(WAYS, 10, 1), BatchingOptions(executor=FairExecutor(arguments.threads))
    pairs = []
    for number in range(arguments.rounds + 1):
        episode = draw(source.classes, settings, source.checkpoint, arguments.seed + number)
        pairs.append(timed(episode, source.checkpoint, number, batching))
    without, validating = zip(*pairs[1:], strict=True)  # the first round warms up
    ratios = [with_s / without_s for without_s, with_s in pairs[1:]]
    return (
        f"{1e3 * percentile(without, 0.5):.0f} ms",
        f"{1e3 * percentile(validating, 0.5):.0f} ms",
        f"{statistics.median(ratios):.2f}",
    )


def fitted(arguments: argparse.Namespace) -> dict[str, Any]:
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
        "machine": machine(ServiceOptions(arguments.surfaces)),
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
    right = torch.arange(int(table.sum())) < int(table.diagonal().sum())
    return estimate_accuracy(right, torch.ones(len(right)), validation.train_share, len(table), prior)


def percent(shares: Iterable[float]) -> str:
    """The mean of shares."""
    return f"{100 * statistics.fmean(shares):.1f} %"


if __name__ == "__main__":
    main()
