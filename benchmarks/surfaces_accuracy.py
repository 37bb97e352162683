"""Accuracy from a few real images over HTTP, and the contribution of meta-training.

    python benchmarks/surfaces_accuracy.py --data-root FOLDER [--draws 30] [--classes 5] [--shots 10] [--json]

Each draw selects classes and images of the steel defects. Every variant gets the same draws as PNG files by POST /adapt
and predicts the same further images by POST /predict. No checkpoint was trained on these images. Accuracy is the mean
of per-class accuracy, so that classes of different size count equally; the table shows its mean over draws. The
interval covers the choice of draws from this one dataset.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.figures import machine, machine_line, markdown, percentile
from benchmarks.labelled_pngs import Draw, LabelledPngs, draw, steel
from benchmarks.running_service import ServiceOptions, add_options, chosen_options, serving
from benchmarks.untrained import untrained
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.errors import AnoleError
from models.meta.evaluation import Score
from service.client import AdaptOptions, Client

IMAGES_A_REQUEST: Final = 50


@dataclass
class Way:
    """One method and its results.

    Attributes:
        name: name in the table.
        anole: talks to the service that has the start.
        client: its own client there.
        steps: inner steps; None leaves them to the checkpoint's recipe.
        accuracies: one per draw.
        adapt_s: seconds of each POST /adapt, measured by the client.
    """

    name: str
    anole: Client
    client: str
    steps: int | None = None
    accuracies: list[float] = field(default_factory=list)
    adapt_s: list[float] = field(default_factory=list)


def main() -> None:
    """Measure all ways on the same draws and print the table."""
    arguments = parsed()
    try:
        measure(arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with x_sdd.zip")
    parser.add_argument("--draws", type=int, default=30, help="tasks (default: 30)")
    parser.add_argument("--classes", type=int, default=5, help="classes a task (default: 5)")
    parser.add_argument("--shots", type=int, default=10, help="images a class to adapt on (default: 10)")
    parser.add_argument("--queries", type=int, default=40, help="maximum queries per class; 0: all (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws and of the random weights (default: 0)")
    parser.add_argument(
        "--random-steps",
        type=int,
        default=100,
        help="inner steps that random weights get in a second try; 0: no such try (default: 100)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.draws < 2:
        parser.error("an interval needs at least 2 draws")
    return arguments


def measure(arguments: argparse.Namespace) -> None:
    """Serve, score every draw, print."""
    options = chosen_options(arguments)
    found = machine(options)
    checkpoint = load_checkpoint(arguments.model)
    images = steel(arguments.data_root)
    draws = [drawn(images, arguments, number) for number in range(arguments.draws)]
    with ways_served(options, checkpoint, arguments) as ways:
        for task in track(draws, "draws", console=Console(stderr=True)):
            for way in ways:
                score(way, task)
    queries = [sum(map(len, task.queries.values())) for task in draws]
    record = {
        "data": images.name,
        "draws": arguments.draws,
        "classes": arguments.classes,
        "shots": arguments.shots,
        "queries_a_class": arguments.queries or "all",
        "queries_a_draw": [min(queries), max(queries)],
        "seed": arguments.seed,
        "recipe": checkpoint.recipe.to_json(),
        "digest": checkpoint.digest,
        "machine": found,
        "ways": [figures_of(way, ways[0]) for way in ways],
    }
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def drawn(images: LabelledPngs, arguments: argparse.Namespace, number: int) -> Draw:
    """Draw `number` of the run, determined by the seed."""
    generator = np.random.default_rng((arguments.seed, number))
    return draw(images, generator, arguments.classes, arguments.shots, arguments.queries)


@contextmanager
def ways_served(
    options: ServiceOptions, checkpoint: Checkpoint, arguments: argparse.Namespace
) -> Iterator[Sequence[Way]]:
    """Methods over two services, one with the checkpoint and one with random weights."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anole-random-")))
        trained = talks_to(options, stack)
        untrained = talks_to(replace(options, checkpoint=random_start(checkpoint, arguments.seed, folder)), stack)
        steps = checkpoint.recipe.steps
        ways = [
            Way(f"adapted: {steps} steps from the meta-trained weights", trained, "adapted"),
            Way("prototypes alone: 0 steps from the meta-trained weights", trained, "prototypes", steps=0),
            Way(f"the same net and recipe, {steps} steps from random weights", untrained, "random"),
        ]
        longer = arguments.random_steps
        if longer:
            name = f"the same net, {longer} steps from random weights"
            ways.append(Way(name, untrained, "random-longer", steps=longer))
        yield ways


def talks_to(options: ServiceOptions, stack: ExitStack) -> Client:
    """Start a service and connect; the stack closes both."""
    service = stack.enter_context(serving(options))
    return stack.enter_context(Client(service.url))


def random_start(checkpoint: Checkpoint, seed: int, folder: Path) -> str:
    """Write a checkpoint with the same net and recipe and initial weights, and return its path."""
    path = folder / "random.safetensors"
    save_checkpoint(untrained(checkpoint, seed), path)
    return str(path)


def score(way: Way, task: Draw) -> None:
    """Adapt to the support of a draw, predict its queries, record the accuracy."""
    began = time.perf_counter()
    adapted = way.anole.adapt(way.client, task.support, AdaptOptions(mode="replace", steps=way.steps, publish="always"))
    way.adapt_s.append(time.perf_counter() - began)
    shares = []
    for label, contents in task.queries.items():
        right = 0
        for first in range(0, len(contents), IMAGES_A_REQUEST):
            together = contents[first : first + IMAGES_A_REQUEST]
            answer = way.anole.predict(way.client, together, version=adapted.version)
            right += sum(verdict.label == label for verdict in answer.predictions)
        shares.append(right / len(contents))
    way.accuracies.append(sum(shares) / len(shares))


def figures_of(way: Way, first: Way) -> dict[str, Any]:
    """Results of a method, and paired differences to the first."""
    alone = Score(tuple(way.accuracies))
    behind = Score(tuple(own - other for own, other in zip(way.accuracies, first.accuracies, strict=True)))
    return {
        "way": way.name,
        "accuracy": alone.mean,
        "half_width": alone.half_width,
        "median": percentile(way.accuracies, 0.5),
        "against_first": None if way is first else {"mean": behind.mean, "half_width": behind.half_width},
        "adapt_s_p50": percentile(way.adapt_s, 0.5),
        "accuracies": way.accuracies,
    }


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    low, high = record["queries_a_draw"]
    which = (
        "all others" if record["queries_a_class"] == "all" else f"at most {record['queries_a_class']} others a class"
    )
    counts = f"{record['classes']} classes x {record['shots']} images"
    lines = [
        record["data"],
        f"{record['draws']} draws (seed {record['seed']}), {counts}; queries: {which}, {low} to {high} images a draw",
        machine_line(record["machine"]),
        "Accuracy: mean over draws of the class-balanced accuracy, 95 % interval; differences draw by draw.",
        "",
        markdown(
            ("way", "accuracy", "median", "against the first", "POST /adapt, p50"),
            [row(way) for way in record["ways"]],
        ),
    ]
    return "\n".join(lines)


def row(way: dict[str, Any]) -> tuple[str, ...]:
    """Format one row of the table."""
    behind = way["against_first"]
    return (
        way["way"],
        f"{100 * way['accuracy']:.1f} ± {100 * way['half_width']:.1f} %",
        f"{100 * way['median']:.1f} %",
        "" if behind is None else f"{100 * behind['mean']:+.1f} ± {100 * behind['half_width']:.1f}",
        f"{1e3 * way['adapt_s_p50']:.0f} ms",
    )


if __name__ == "__main__":
    main()
