"""Time from sending labelled images to the first prediction with the new version. Target: seconds.

    python benchmarks/time_to_serve.py [--data-root FOLDER] [--runs 40]

Each run is a new client: POST /adapt with 5 classes x 10 PNGs of 128 px, then POST /predict with another image until a
prediction by the new version arrives. Every second run uses 0 inner steps, which shows the cost of the inner loop under
the same conditions. The parts are measured by the service (`report.seconds`, `seconds`); the rest is the additional
time measured by this process. Without a data root, the images are generated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.figures import machine, machine_line, markdown, percentile
from benchmarks.labelled_pngs import Draw, draw, steel_or_generated
from benchmarks.running_service import add_options, chosen_options, serving
from models.errors import AnoleError
from service.client import AdaptOptions, Client

N_WAY: Final = 5
N_SHOT: Final = 10
GENERATED_IMAGES: Final = 30
PROMISE_S: Final = 30.0

WHOLE: Final = "request to served prediction"
PARTS: Final = (
    "adapt: decode",
    "adapt: inner loop, with head and statistics",
    "adapt: examine",
    "adapt: store samples and weights",
    "adapt: the rest (HTTP, form, rows of the version)",
    "predict: the service's own (read, fold, decode, net)",
    "predict: the rest (HTTP, form)",
    WHOLE,
)

Seconds = dict[str, float]
"""Part -> seconds of one run."""


def main() -> None:
    """Measure and print the table."""
    arguments = parsed()
    try:
        measure(arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-root", type=Path, default=None, help="folder with x_sdd.zip (default: generated images)"
    )
    parser.add_argument("--runs", type=int, default=40, help="measured runs a side (default: 40)")
    parser.add_argument("--warm-up", type=int, default=2, help="runs a side before them, not counted (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_options(parser)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> None:
    """Serve, run alternately with the recipe and with 0 steps, print."""
    options = chosen_options(arguments)
    found = machine(options)
    images = steel_or_generated(arguments.data_root, N_WAY, GENERATED_IMAGES)
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
        "machine": found,
        "first_s": sides["recipe"][0][WHOLE],
        "seconds": {
            side: {part: summary([run[part] for run in runs]) for part in PARTS} for side, runs in counted.items()
        },
    }
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def one_run(anole: Client, client: str, task: Draw, steps: int | None) -> Seconds:
    """Adapt a new client, predict until the new version answers, and return the seconds of each part."""
    query = next(iter(task.queries.values()))
    began = time.perf_counter()
    adapted = anole.adapt(client, task.support, AdaptOptions(mode="replace", steps=steps, publish="always"))
    adapted_at = time.perf_counter()
    answer = anole.predict(client, query)
    while answer.version != adapted.version:
        answer = anole.predict(client, query)
    served_at = time.perf_counter()
    seconds = adapted.report.seconds
    predict_s = served_at - adapted_at
    in_order = (
        seconds.decode,
        seconds.adapt,
        seconds.examine,
        seconds.store,
        adapted_at - began - seconds.total,
        answer.seconds,
        predict_s - answer.seconds,
        served_at - began,
    )
    return dict(zip(PARTS, in_order, strict=True))


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and high percentile of some seconds."""
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "highest": max(values)}


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    recipe, prototypes = record["seconds"]["recipe"], record["seconds"]["prototypes"]
    rows = [
        (part, *(f"{1e3 * side[part][column]:.1f}" for side in (recipe, prototypes) for column in ("p50", "p99")))
        for part in PARTS
    ]
    times, first_ms = PROMISE_S / recipe[WHOLE]["p50"], 1e3 * record["first_s"]
    lines = [
        f"{record['data']}; {N_WAY} classes x {N_SHOT} images, a new client every run",
        machine_line(record["machine"]),
        f"{record['runs']} runs a side, by turns; p99 is the nearest rank, below 100 runs the slowest one",
        f"the first run after the start took {first_ms:.0f} ms; the promise, {PROMISE_S:.0f} s, is {times:.0f} medians",
        "",
        markdown(("milliseconds", "recipe p50", "recipe p99", "0 steps p50", "0 steps p99"), rows),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
