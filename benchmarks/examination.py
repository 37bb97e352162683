"""The claims: an examination's estimate is honest, it finds wrong labels, verdicts are calibrated, and it costs little.

    python benchmarks/examination.py --data-root FOLDER [--part honesty flips verdicts time] [--episodes 100]

Data: Omniglot's test characters with the checkpoint ``omniglot``; X-SDD and procedural textures, other seeds than any
training, with ``surfaces``. Neither has seen these classes. 5-way; as many queries as there are, up to ``--queries`` a
class; strange images come from up to five classes beside the episode's five. ``--fit`` prints, from meta-training
classes alone, what `models.validation.calibration.LearningCurvePrior` states.
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

from benchmarks.examined_episodes import EpisodeDraw, Outcome, draw, found, outcomes, timed
from benchmarks.figures import auroc, machine, machine_line, markdown, percentile
from benchmarks.running_service import ServiceOptions
from models.adaptation.adapt import Company
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
    """Classes and the checkpoint that adapts to them."""

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
    print(f"5-way, {arguments.episodes} episodes from seed {arguments.seed}, most queries {arguments.queries} a class")
    for title, headings, rows in record["tables"]:
        print(f"\n{title}\n\n{markdown(headings, rows)}")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None, help="folder with omniglot/ and x_sdd.zip")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--data", nargs="+", default=["omniglot", "folder:x_sdd.zip", "textures"], help="data sets")
    parser.add_argument("--surfaces", default="surfaces", help="checkpoint for surfaces (default: %(default)s)")
    parser.add_argument("--omniglot", default="omniglot", help="checkpoint for characters (default: %(default)s)")
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 10], help="support images a class; 5 10")
    parser.add_argument("--episodes", type=int, default=100, help="a data set and shot (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=40, help="most a class (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="inner loops side by side (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default: %(default)s)")
    parser.add_argument("--fit", action="store_true", help="print what meta-training classes say of the constants")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if arguments.episodes < 2:
        parser.error("a mean needs at least 2 episodes")
    return arguments


def sources(arguments: argparse.Namespace, *, training: bool = False) -> list[Source]:
    """The data sets, each with its checkpoint; with `training` the classes that the checkpoints were trained on."""
    opened = []
    for name in ("omniglot", "textures") if training else arguments.data:
        checkpoint = load_checkpoint(arguments.omniglot if name == "omniglot" else arguments.surfaces)
        data = open_dataset(name, checkpoint.net_config.image, arguments.data_root, CACHE)
        opened.append(Source(name, data.train if training else data.test, checkpoint))
    return opened


def examined(source: Source, arguments: argparse.Namespace, shots: int, flipped: float = 0.0) -> list[Outcome]:
    """The episodes of one row."""
    how = EpisodeDraw(WAYS, shots, arguments.queries, flipped)
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    each = outcomes(source.classes, how, source.checkpoint, seeds, Company(threads=arguments.threads))
    return list(track(each, f"{source.name}, {shots} shots", len(seeds), console=Console(stderr=True)))


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every part's table, and where it was taken."""
    record: dict[str, Any] = {"machine": machine(ServiceOptions(arguments.surfaces)), "tables": []}
    honesty, verdicts, flips, seconds = [], [], [], []
    for source in sources(arguments):
        for shots in arguments.shots:
            if {"honesty", "verdicts"} & set(arguments.part):
                judged = examined(source, arguments, shots)
                honesty.append((source.name, str(shots), *honesty_row(judged)))
                verdicts.append((source.name, str(shots), *verdict_row(judged)))
        if "flips" in arguments.part:
            flips.append((source.name, *flip_row(examined(source, arguments, max(arguments.shots), FLIPPED))))
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
    "mean of its size",
    "interval covers",
    "its width",
)


def honesty_row(judged: Sequence[Outcome]) -> tuple[str, ...]:
    """Means over episodes."""
    estimates = [found(outcome.examined).estimate for outcome in judged]
    errors = [own.accuracy - outcome.truth for own, outcome in zip(estimates, judged, strict=True)]
    covered = [own.low <= outcome.truth <= own.high for own, outcome in zip(estimates, judged, strict=True)]
    return (
        percent(own.accuracy for own in estimates),
        percent(outcome.truth for outcome in judged),
        f"{100 * statistics.fmean(errors):+.1f}",
        f"{100 * statistics.fmean(map(abs, errors)):.1f}",
        percent(map(float, covered)),
        percent(own.high - own.low for own in estimates),
    )


VERDICTS: Final = ("data", "shots", "calibration error", "AUROC", "known called unknown", "strange called unknown")


def verdict_row(judged: Sequence[Outcome]) -> tuple[str, ...]:
    """Calibration over the queries of all episodes; the others are means over episodes."""
    error = expected_calibration_error(
        torch.cat([outcome.confidence for outcome in judged]), torch.cat([outcome.right for outcome in judged])
    )
    thresholds = [found(outcome.examined).unknown_threshold for outcome in judged]
    pairs = list(zip(judged, thresholds, strict=True))
    return (
        f"{100 * error:.1f} %",
        f"{statistics.fmean(auroc(outcome.familiar, outcome.strange) for outcome in judged):.3f}",
        percent(float((outcome.familiar < least).double().mean()) for outcome, least in pairs),
        percent(float((outcome.strange < least).double().mean()) for outcome, least in pairs),
    )


FLIPS: Final = ("data", "flips found", "clean samples suspected")


def flip_row(judged: Sequence[Outcome]) -> tuple[str, ...]:
    """Shares over all samples of all episodes."""
    counts = torch.zeros(2, 2)  # flipped or not, suspected or not
    for outcome in judged:
        suspected = torch.zeros_like(outcome.flips)
        suspected[[issue.sample for issue in found(outcome.examined).label_issues]] = True
        for flipped in (False, True):
            own = suspected[outcome.flips == flipped]
            counts[int(flipped)] += torch.tensor([float((~own).sum()), float(own.sum())])
    shares = counts[:, 1] / counts.sum(1)
    return (f"{100 * float(shares[1]):.1f} %", f"{100 * float(shares[0]):.1f} %")


TIME: Final = ("data", "without, p50", "with, p50", "ratio, median of rounds")


def time_row(source: Source, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Both sides on the same support, in turns."""
    how, company = EpisodeDraw(WAYS, 10, 1), Company(threads=arguments.threads)
    pairs = []
    for number in range(arguments.rounds + 1):
        drawn = draw(source.classes, how, source.checkpoint, arguments.seed + number)
        pairs.append(timed(drawn, source.checkpoint, number, company))
    alone, examining = zip(*pairs[1:], strict=True)  # the first round warms up
    ratios = [with_s / without_s for without_s, with_s in pairs[1:]]
    return (
        f"{1e3 * percentile(alone, 0.5):.0f} ms",
        f"{1e3 * percentile(examining, 0.5):.0f} ms",
        f"{statistics.median(ratios):.2f}",
    )


def fitted(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mean error by rate, and coverage by spread at the rate in use, over meta-training classes."""
    judged = [
        (f"{source.name}, {shots} shots", examined(source, arguments, shots))
        for source in sources(arguments, training=True)
        for shots in arguments.shots
    ]
    rates = [(name, *(f"{100 * mean_error(own, rate):+.2f}" for rate in RATES)) for name, own in judged]
    spreads = [(name, *(f"{100 * coverage(own, spread):.1f} %" for spread in SPREADS)) for name, own in judged]
    return {
        "machine": machine(ServiceOptions(arguments.surfaces)),
        "tables": [
            ("Mean error in points by rate, meta-training classes", ("data", *map(str, RATES)), rates),
            (f"Coverage by spread, rate {DEFAULT_PRIOR.rate}", ("data", *map(str, SPREADS)), spreads),
        ],
    }


def mean_error(judged: Sequence[Outcome], rate: float) -> float:
    """Mean of estimate less truth at that rate."""
    return statistics.fmean(again(outcome, LearningCurvePrior(rate)).accuracy - outcome.truth for outcome in judged)


def coverage(judged: Sequence[Outcome], spread: float) -> float:
    """Share of episodes whose interval holds the truth at that spread."""
    intervals = [again(outcome, LearningCurvePrior(DEFAULT_PRIOR.rate, spread)) for outcome in judged]
    held = [own.low <= outcome.truth <= own.high for own, outcome in zip(intervals, judged, strict=True)]
    return statistics.fmean(map(float, held))


def again(outcome: Outcome, learning: LearningCurvePrior) -> Any:
    """The episode's estimate under other constants, from its confusion table."""
    examination = found(outcome.examined)
    table = examination.confusion
    right = torch.arange(int(table.sum())) < int(table.diagonal().sum())
    return estimate_accuracy(right, torch.ones(len(right)), examination.train_share, len(table), learning)


def percent(shares: Iterable[float]) -> str:
    """The mean of shares."""
    return f"{100 * statistics.fmean(shares):.1f} %"


if __name__ == "__main__":
    main()
