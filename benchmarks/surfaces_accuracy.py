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

from benchmarks.figures import Parser, differences, machine_line, markdown, percent, percentile, points, script
from benchmarks.fixtures import Draw, ImageFiles, draw, steel, untrained
from benchmarks.running_service import ServiceOptions, add_options, chosen_options, serving
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.meta.evaluation import Score
from service.client import AdaptOptions, Client

MAX_IMAGES_PER_REQUEST: Final = 50


@dataclass
class Method:
    """One method and its results.

    Attributes:
        name: row of the table.
        anole: connection to the service with its checkpoint.
        client: its client name there.
        steps: inner steps; None means those of the checkpoint's recipe.
        accuracies: one per draw.
        adapt_s: seconds of each POST /adapt, measured by the caller.
    """

    name: str
    anole: Client
    client: str
    steps: int | None = None
    accuracies: list[float] = field(default_factory=list)
    adapt_s: list[float] = field(default_factory=list)


@script
def main() -> None:
    """Score all methods on the same draws and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    machine = options.machine()
    checkpoint = load_checkpoint(arguments.model)
    images = steel(arguments.data_root)
    draws = [numbered_draw(images, arguments, number) for number in range(arguments.draws)]
    with served_methods(options, checkpoint, arguments) as methods:
        for task in track(draws, "draws", console=Console(stderr=True)):
            for method in methods:
                score(method, task)
    queries = [len(task.query_images()) for task in draws]
    record = {
        **{name: getattr(arguments, name) for name in ("draws", "classes", "shots", "queries", "seed")},
        "data": images.name,
        "queries_per_draw": [min(queries), max(queries)],
        "recipe": checkpoint.recipe.to_json(),
        "digest": checkpoint.digest,
        "machine": machine,
        "methods": [
            {"method": method.name, "accuracies": method.accuracies, "adapt_s": method.adapt_s} for method in methods
        ],
    }
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root(required=True)
    parser.option("--draws", 30, "number of tasks", least=2)
    parser.option("--classes", 5, "classes per task")
    parser.option("--shots", 10, "support images per class")
    parser.option("--queries", 40, "maximum number of queries per class; 0 means all")
    parser.option("--seed", 0, "seed of the draws and of the random weights")
    parser.option("--random-steps", 100, "inner steps of a second run from random weights; 0 means no such run")
    parser.json()
    add_options(parser)
    return parser.parse_args()


def numbered_draw(images: ImageFiles, arguments: argparse.Namespace, number: int) -> Draw:
    """Draw `number` of the run; depends on the seed and the number only."""
    generator = np.random.default_rng((arguments.seed, number))
    return draw(images, generator, arguments.classes, arguments.shots, arguments.queries)


@contextmanager
def served_methods(
    options: ServiceOptions, checkpoint: Checkpoint, arguments: argparse.Namespace
) -> Iterator[Sequence[Method]]:
    """Run two services, one with the checkpoint and one with random weights, and list the methods that use them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anole-random-")))
        save_checkpoint(untrained(checkpoint, arguments.seed), folder / "random.safetensors")
        trained = connect(options, stack)
        random = connect(replace(options, checkpoint=str(folder / "random.safetensors")), stack)
        steps, more = checkpoint.recipe.steps, arguments.random_steps
        methods = [
            Method(f"meta-trained, {steps} inner steps", trained, "adapted"),
            Method("meta-trained, prototypes only (0 steps)", trained, "prototypes", steps=0),
            Method(f"random weights, {steps} inner steps", random, "random"),
        ]
        if more:
            methods.append(Method(f"random weights, {more} inner steps", random, "random-longer", steps=more))
        yield methods


def connect(options: ServiceOptions, stack: ExitStack) -> Client:
    """Start a service and connect to it; the stack ends both."""
    service = stack.enter_context(serving(options))
    return stack.enter_context(Client(service.url))


def score(method: Method, task: Draw) -> None:
    """Adapt to the support of the draw, predict its queries, and record the accuracy."""
    options = AdaptOptions(mode="replace", steps=method.steps, publish="always")
    began = time.perf_counter()
    adapted = method.anole.adapt(method.client, task.support, options)
    method.adapt_s.append(time.perf_counter() - began)
    shares = []
    for label, contents in task.queries.items():
        correct = 0
        for first in range(0, len(contents), MAX_IMAGES_PER_REQUEST):
            batch = contents[first : first + MAX_IMAGES_PER_REQUEST]
            answer = method.anole.predict(method.client, batch, version=adapted.version)
            correct += sum(prediction.label == label for prediction in answer.predictions)
        shares.append(correct / len(contents))
    method.accuracies.append(sum(shares) / len(shares))


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    low, high = record["queries_per_draw"]
    which = f"up to {record['queries']} other images per class" if record["queries"] else "all other images"
    first = record["methods"][0]["accuracies"]
    rows = [
        (
            method["method"],
            percent(Score(tuple(method["accuracies"]))),
            f"{100 * percentile(method['accuracies'], 0.5):.1f} %",
            points(differences(method["accuracies"], first)) if number else "",
            f"{1e3 * percentile(method['adapt_s'], 0.5):.0f} ms",
        )
        for number, method in enumerate(record["methods"])
    ]
    counts = f"{record['classes']} classes x {record['shots']} images"
    return "\n".join([
        record["data"],
        f"{record['draws']} draws (seed {record['seed']}), {counts}; queries: {which}, {low} to {high} per draw",
        machine_line(record["machine"]),
        "Accuracy: mean over draws of the class-balanced accuracy, 95 % interval; differences are paired by draw.",
        "",
        markdown(("method", "accuracy", "median", "difference to the first row", "POST /adapt, p50"), rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
