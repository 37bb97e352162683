"""Time from sending labelled images to the first prediction with the new version. Target: seconds.

    python benchmarks/time_to_serve.py [--data-root FOLDER] [--side 200] [--runs 40]

Each run is a new client: POST /adapt with 5 classes x 10 PNGs, then POST /predict with another image until a
prediction by the new version arrives. Every second run uses 0 inner steps, which shows the cost of the inner loop under
the same conditions; a recipe without steps gives the same on both sides. The parts are measured by the service
(`report.seconds`, `seconds`); the rest is the additional time measured by this process. Without a data root, the images
are generated: in colour if they are larger than 128 px.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.figures import Parser, machine_line, markdown, percentile, script
from benchmarks.fixtures import N_SHOT, N_WAY, Draw, draw, steel_or_generated
from benchmarks.running_service import add_options, chosen_options, serving
from service.client import AdaptOptions, Client

TARGET_S: Final = 30.0

TOTAL: Final = "total"
PARTS: Final = (
    "adapt: decode",
    "adapt: inner loop, with head and statistics",
    "adapt: validation",
    "adapt: store samples and weights",
    "adapt: rest (HTTP, form, rows of the version)",
    "predict: in the service (read, fold, decode, net)",
    "predict: rest (HTTP, form)",
    TOTAL,
)

Seconds = dict[str, float]
"""Part -> seconds of one run."""


@script
def main() -> None:
    """Run alternately with the recipe's steps and with 0 steps, and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    machine = options.machine()
    images = steel_or_generated(arguments.data_root, arguments.side)
    sides: dict[str, list[Seconds]] = {"recipe": [], "prototypes": []}
    numbers = range(arguments.warm_up + arguments.runs)
    with serving(options) as service, Client(service.url) as anole:
        for number in track(numbers, "runs", console=Console(stderr=True)):
            generator = np.random.default_rng((arguments.seed, number))
            task = draw(images, generator, N_WAY, N_SHOT, max_queries=1)
            sides["recipe"].append(one_run(anole, f"recipe-{number}", task, None))
            sides["prototypes"].append(one_run(anole, f"prototypes-{number}", task, 0))
    counted = {side: runs[arguments.warm_up :] for side, runs in sides.items()}
    record = {
        "data": images.name,
        "runs": arguments.runs,
        "machine": machine,
        "first_s": sides["recipe"][0][TOTAL],
        "seconds": {
            side: {part: summary([run[part] for run in runs]) for part in PARTS} for side, runs in counted.items()
        },
    }
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--side", 200, "height and width of generated images")
    parser.option("--runs", 40, "runs per side")
    parser.option("--warm-up", 2, "runs per side before those that count")
    parser.option("--seed", 0, "seed for the choice of images")
    parser.json()
    add_options(parser)
    return parser.parse_args()


def one_run(anole: Client, client: str, task: Draw, steps: int | None) -> Seconds:
    """Adapt a new client and predict until the new version answers; return the seconds of each part."""
    query = next(iter(task.queries.values()))
    began = time.perf_counter()
    adapted = anole.adapt(client, task.support, AdaptOptions(mode="replace", steps=steps, publish="always"))
    adapted_at = time.perf_counter()
    answer = anole.predict(client, query)
    while answer.version != adapted.version:
        answer = anole.predict(client, query)
    served_at = time.perf_counter()
    seconds = adapted.report.seconds
    in_order = (
        seconds.decode,
        seconds.adapt,
        seconds.examine,
        seconds.store,
        adapted_at - began - seconds.total,
        answer.seconds,
        served_at - adapted_at - answer.seconds,
        served_at - began,
    )
    return dict(zip(PARTS, in_order, strict=True))


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "highest": max(values)}


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    recipe, prototypes = record["seconds"]["recipe"], record["seconds"]["prototypes"]
    rows = [
        (part, *(f"{1e3 * side[part][column]:.1f}" for side in (recipe, prototypes) for column in ("p50", "p99")))
        for part in PARTS
    ]
    ratio, first_ms = TARGET_S / recipe[TOTAL]["p50"], 1e3 * record["first_s"]
    return "\n".join([
        f"{record['data']}; {N_WAY} classes x {N_SHOT} images, a new client in every run",
        machine_line(record["machine"]),
        f"{record['runs']} alternating runs per side; with fewer than 100 runs, p99 is the slowest",
        f"first run after the start: {first_ms:.0f} ms; the target of {TARGET_S:.0f} s is {ratio:.0f} times the median",
        "",
        markdown(("milliseconds", "recipe p50", "recipe p99", "0 steps p50", "0 steps p99"), rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
