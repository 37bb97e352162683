"""A start meta-trained on other images compared with classical features on real surfaces.

    python benchmarks/surfaces_table.py --data-root FOLDER [--checkpoint surfaces] [--dataset folder:x_sdd.zip]

All rows use the episodes that ``anole evaluate`` samples from the same seed: the checkpoint adapted, and with
prototypes only (0 steps); the same net with random weights, likewise; and local binary patterns with logistic
regression (see lbp_baseline.py). Differences to the first row are taken per episode. Times are for learning from 50
images, medians of rounds in which the rows alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from benchmarks import lbp_baseline
from benchmarks.episode_options import add_episode_options, few_shot_classes
from benchmarks.figures import machine, machine_line, markdown
from benchmarks.running_service import ServiceOptions
from benchmarks.untrained import untrained
from models.adaptation.adapt import adapt_one
from models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import AnoleError
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from service.cli.console import progress

TIMED_IMAGES: Final = 50


@dataclass
class Way:
    """One method and its results.

    Attributes:
        name: name in the table.
        score: episodes of a shape -> the accuracy of each.
        learner: a shape and a seed -> what learns a support of that shape when it is called.
        accuracies: shots -> one accuracy an episode.
        seconds: of each timed round, on the clock and of the processor.
    """

    name: str
    score: Callable[[EpisodeShape], Iterator[float]]
    learner: Callable[[EpisodeShape, int], Callable[[], object]]
    accuracies: dict[int, list[float]] = field(default_factory=dict)
    seconds: list[tuple[float, float]] = field(default_factory=list)


def main() -> None:
    """Score all ways on the same episodes and print the table."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    try:
        record = measure(arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="surfaces", help="shipped name, or path (default: %(default)s)")
    parser.add_argument("--random-seed", type=int, default=0, help="of the random weights (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="inside one operation (default: %(default)s)")
    add_episode_options(parser)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score and time every method; results as JSON data."""
    found = machine(ServiceOptions(arguments.checkpoint, torch_threads=arguments.threads))
    checkpoint = load_checkpoint(arguments.checkpoint)
    ways = chosen_ways(checkpoint, arguments)
    work = [(shots, way) for shots in arguments.shots for way in ways]
    scored = 0
    with progress("scoring", len(work) * arguments.episodes) as report:
        for shots, way in work:
            own = way.accuracies.setdefault(shots, [])
            for accuracy in way.score(EpisodeShape(arguments.ways, shots, arguments.queries)):
                own.append(accuracy)
                scored += 1
                report(scored, f"{way.name}, {shots}-shot: {100 * sum(own) / len(own):.1f} % so far")
    timed = EpisodeShape(arguments.ways, max(1, TIMED_IMAGES // arguments.ways))
    for number in range(arguments.rounds):
        for way in ways:
            way.seconds.append(seconds_of(way.learner(timed, arguments.seed + number)))
    names = ("dataset", "ways", "shots", "queries", "episodes", "seed", "random_seed", "rounds")
    return {
        **{name: getattr(arguments, name) for name in names},
        "checkpoint": arguments.checkpoint,
        "digest": checkpoint.digest,
        "checkpoint_bytes": find_checkpoint(arguments.checkpoint).stat().st_size,
        "recipe": checkpoint.recipe.to_json(),
        "timed_images": timed.n_way * timed.n_shot,
        "machine": found,
        "rows": [figures_of(way, ways[0]) for way in ways],
    }


def chosen_ways(checkpoint: Checkpoint, arguments: argparse.Namespace) -> list[Way]:
    """The rows of the table."""
    classes = few_shot_classes(arguments, checkpoint.net_config.image)
    plan = EvaluationConfig(arguments.episodes, arguments.seed, checkpoint.recipe.statistics)
    steps = checkpoint.recipe.steps
    starts = {"meta-trained": checkpoint, "random": untrained(checkpoint, arguments.random_seed)}
    ways = []
    for name, start in starts.items():
        at_once = replace(start, recipe=start.recipe.adjusted(0, None))
        ways.append(net_way(f"{name} weights, {steps} inner steps", start, classes, plan))
        ways.append(net_way(f"{name} weights, 0 inner steps", at_once, classes, plan))
    if not lbp_baseline.installed():
        print(f"the rows of local binary patterns are left out: {lbp_baseline.NEEDED}", file=sys.stderr)
        return ways
    grey = few_shot_classes(arguments, lbp_baseline.SPEC)
    return ways + [lbp_way(patterns, grey, plan) for patterns in lbp_baseline.PATTERNS]


def net_way(name: str, start: Checkpoint, classes: ClassDataset, plan: EvaluationConfig) -> Way:
    """A checkpoint adapted by its recipe."""
    net, spec = start.build_net(), start.net_config.image

    def score(shape: EpisodeShape) -> Iterator[float]:
        source = EpisodeSampler(classes, shape, spec)
        return evaluate(net, start.weights, source, start.recipe, plan, start.moments)

    def learner(shape: EpisodeShape, seed: int) -> Callable[[], object]:
        support = EpisodeSampler(classes, shape, spec).support(seed)
        return lambda: adapt_one(net, start.weights, support, start.recipe, seed)

    return Way(name, score, learner)


def lbp_way(patterns: lbp_baseline.Patterns, grey: ClassDataset, plan: EvaluationConfig) -> Way:
    """Classical features; the timed ones do not cache images."""
    known = lbp_baseline.Histograms(patterns)

    def score(shape: EpisodeShape) -> Iterator[float]:
        return lbp_baseline.accuracies(grey, shape, plan, known)

    def learner(shape: EpisodeShape, seed: int) -> Callable[[], object]:
        support = EpisodeSampler(grey, shape, lbp_baseline.SPEC).support(seed)
        return lambda: lbp_baseline.fitted(support, lbp_baseline.Histograms(patterns))

    return Way(patterns.name, score, learner)


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Elapsed time, and processor time of all threads."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - began_cpu


def figures_of(way: Way, first: Way) -> dict[str, Any]:
    """Results of a method, and paired differences to the first."""
    cells = []
    for shots, own in way.accuracies.items():
        alone = Score(tuple(own))
        behind = Score(tuple(mine - its for mine, its in zip(own, first.accuracies[shots], strict=True)))
        cells.append(
            {
                "shots": shots,
                "accuracy": alone.mean,
                "half_width_95": alone.half_width,
                "against_first": None if way is first else behind.mean,
                "against_first_half_width_95": None if way is first else behind.half_width,
                "accuracies": own,
            }
        )
    medians = [statistics.median(seconds) for seconds in zip(*way.seconds, strict=True)] or [None, None]
    return {"way": way.name, "cells": cells, "learn_s": medians[0], "learn_processor_s": medians[1]}


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    lines = [
        f"{record['dataset']}: {record['ways']}-way, {record['queries']} queries a class",
        f"{record['episodes']} episodes, seed {record['seed']}; random weights of seed {record['random_seed']}",
        f"checkpoint {record['checkpoint']}, digest {record['digest'][:12]}, {record['checkpoint_bytes']:,} bytes",
        machine_line(record["machine"]),
        "Accuracy with its 95 % interval; in brackets the difference to the first row, episode by episode.",
        "",
        markdown(
            (
                "way",
                *(f"{shots}-shot" for shots in record["shots"]),
                f"{record['timed_images']} images learned in",
                "processor time",
            ),
            [row(way) for way in record["rows"]],
        ),
    ]
    return "\n".join(lines)


def row(way: dict[str, Any]) -> Sequence[str]:
    """Format one row of the table."""
    seconds = ("" if taken is None else f"{taken:.2f} s" for taken in (way["learn_s"], way["learn_processor_s"]))
    return (way["way"], *(cell_text(cell) for cell in way["cells"]), *seconds)


def cell_text(cell: dict[str, Any]) -> str:
    """Accuracy, and the paired difference except in the first row."""
    alone = f"{100 * cell['accuracy']:.1f} ± {100 * cell['half_width_95']:.1f} %"
    if cell["against_first"] is None:
        return alone
    return f"{alone} ({100 * cell['against_first']:+.1f} ± {100 * cell['against_first_half_width_95']:.1f})"


if __name__ == "__main__":
    main()
