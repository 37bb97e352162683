"""What a start can see and whether its versions go live: generated sets, through a running service.

    python benchmarks/start_sets.py [--model efficientnet-lite0] [--runs 60] [--ways 2 5] [--json]

* ``colour``: classes of one surface that differ in hue only; 5 images per class.
* ``brightness``: classes that differ in brightness only; 5 images per class.
* ``fixed camera``: good parts and parts with one small defect, 0.5 to 2 % of the picture, on one product; 10 parts per
  class. Each run has another product, and the runs take turns over the kinds of defect.
* ``fixed camera, two pictures of a part``: the same with 5 parts per class, photographed twice; the form names the part
  of each picture.

Each run adapts a new client by POST /adapt, with cross-validation folds and the gate, and predicts 10 other images per
class by POST /predict, whether the version went live or not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.figures import Parser, machine_line, markdown, percentile, script
from benchmarks.fixtures import png
from benchmarks.running_service import add_options, chosen_options, serving
from models.data.synthetic.fixed_camera import DEFECT_KINDS, Fixture, PartPicture, part_pictures
from models.data.synthetic.tone_classes import brightness_classes, colour_classes
from service.client import AdaptOptions, Client, LabelledFile

SETS: Final = ("colour", "brightness", "fixed camera", "fixed camera, two pictures of a part")
TONE_SHOTS, PARTS, QUERIES = 5, 10, 10
TIMEOUT_S: Final = 600
"""Of a request: accuracy does not depend on how busy the machine is."""


@dataclass(frozen=True, slots=True)
class Task:
    """Images of one run.

    Attributes:
        support: labelled images to adapt to.
        queries: label -> other images.
    """

    support: tuple[LabelledFile, ...]
    queries: Mapping[str, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one run.

    Attributes:
        row: row of the table that it belongs to.
        live: whether the version went live.
        accuracy: mean over classes of the accuracy on the queries.
        known: share of the queries that the version took for one of its classes.
        estimate: estimated accuracy; None without cross-validation.
        interval: 95 % interval of the estimate.
        adapt_s: seconds of POST /adapt, measured by the caller.
    """

    row: str
    live: bool
    accuracy: float
    known: float
    estimate: float | None
    interval: tuple[float, float] | None
    adapt_s: float


def tone_task(classes: NDArray[np.uint8]) -> Task:
    """Split classes, (n_way, count, 3, side, side), into support and queries."""
    named = {f"class {index}": [png(pixels) for pixels in pictures] for index, pictures in enumerate(classes)}
    support = [
        LabelledFile(label, f"{label}-{index}.png", content)
        for label, contents in named.items()
        for index, content in enumerate(contents[:TONE_SHOTS])
    ]
    return Task(tuple(support), {label: contents[TONE_SHOTS:] for label, contents in named.items()})


def fixed_camera_task(generator: np.random.Generator, defect: str, pictures_per_part: int) -> Task:
    """Good and defective parts of a new product; the queries show other parts."""
    fixture, support, queries = Fixture(generator), [], {}
    for kind in (None, defect):
        drawn = part_pictures(fixture, generator, kind, PARTS // pictures_per_part, pictures_per_part)
        support += [_labelled(picture, index, pictures_per_part) for index, picture in enumerate(drawn)]
        others = part_pictures(fixture, generator, kind, QUERIES)
        queries[others[0].label] = [png(picture.pixels) for picture in others]
    return Task(tuple(support), queries)


def _labelled(picture: PartPicture, index: int, pictures_per_part: int) -> LabelledFile:
    part = f"{picture.label} {picture.part}" if pictures_per_part > 1 else None
    return LabelledFile(picture.label, f"{picture.label}-{index}.png", png(picture.pixels), part)


def tasks_of(name: str, ways: Sequence[int]) -> dict[str, Callable[[np.random.Generator], Task]]:
    """The rows of a set: name of the row -> function that draws a task."""
    if name in ("colour", "brightness"):
        draw, count = (colour_classes if name == "colour" else brightness_classes), TONE_SHOTS + QUERIES

        def of_ways(n_way: int) -> Callable[[np.random.Generator], Task]:
            return lambda generator: tone_task(draw(generator, n_way, count))

        return {f"{name}, {n_way} classes": of_ways(n_way) for n_way in ways}
    pictures = 2 if name.endswith("two pictures of a part") else 1

    def of_defect(defect: str) -> Callable[[np.random.Generator], Task]:
        return lambda generator: fixed_camera_task(generator, defect, pictures)

    return {f"{name}: {defect}": of_defect(defect) for defect in DEFECT_KINDS}


@script
def main() -> None:
    """Run all sets and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    machine, outcomes = options.machine(), list[Outcome]()
    rows = [tasks_of(name, arguments.ways) for name in arguments.sets]
    patient = replace(options, environment={"ANOLE_ADAPT_S": str(TIMEOUT_S), "ANOLE_PREDICT_S": str(TIMEOUT_S)})
    with serving(patient) as service, Client(service.url, timeout=httpx.Timeout(TIMEOUT_S)) as anole:
        for number in track(range(arguments.runs), "runs", console=Console(stderr=True)):
            for index, drawers in enumerate(rows):
                for name, draw in drawers_of_run(drawers, number):
                    generator = np.random.default_rng((arguments.seed, index, number))
                    outcomes.append(run(anole, f"run-{len(outcomes)}", name, draw(generator)))
    record = {"machine": machine, "runs": arguments.runs, "seed": arguments.seed, "outcomes": [*map(asdict, outcomes)]}
    print(json.dumps(record, indent=2) if arguments.json else report(outcomes, record))


def drawers_of_run(
    drawers: Mapping[str, Callable[[np.random.Generator], Task]], number: int
) -> list[tuple[str, Callable[[np.random.Generator], Task]]]:
    """All rows of a set in every run, except that the kinds of defect take turns."""
    items = list(drawers.items())
    return [items[number % len(items)]] if items[0][0].startswith("fixed camera") else items


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--sets", list(SETS), "sets to run", choices=SETS)
    parser.option("--runs", 60, "runs of each set", least=1)
    parser.option("--ways", [2, 5], "numbers of classes of the sets colour and brightness", least=2)
    parser.option("--seed", 0, "seed of the images")
    parser.json()
    add_options(parser)
    return parser.parse_args()


def run(anole: Client, client: str, row: str, task: Task) -> Outcome:
    """Adapt a client and predict the queries."""
    began = time.perf_counter()
    adapted = anole.adapt(client, task.support, AdaptOptions())
    adapt_s = time.perf_counter() - began
    shares, known = [], []
    for label, contents in task.queries.items():
        predictions = anole.predict(client, contents, version=adapted.version).predictions
        shares.append(statistics.fmean(prediction.label == label for prediction in predictions))
        known += [prediction.verdict == "known" for prediction in predictions]
    return Outcome(
        row=row,
        live=adapted.published,
        accuracy=statistics.fmean(shares),
        known=statistics.fmean(known),
        estimate=adapted.report.estimated_accuracy,
        interval=adapted.report.interval,
        adapt_s=adapt_s,
    )


def report(outcomes: Sequence[Outcome], record: Mapping[str, Any]) -> str:
    """The table, and what was run."""
    rows: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        rows[outcome.row].append(outcome)
        if outcome.row.startswith("fixed camera"):
            rows[f"{outcome.row.partition(':')[0]}: all"].append(outcome)
    headings = (
        "set",
        "runs",
        "live",
        "accuracy",
        "worst run",
        "called known",
        "mean error of the estimate",
        "interval covers",
        "POST /adapt, p50",
    )
    lines = [(name, *row_of(found)) for name, found in sorted(rows.items())]
    meaning = "Accuracy: mean over runs of the class-balanced accuracy on other images; error: estimate minus accuracy."
    return "\n".join([markdown(headings, lines), "", machine_line(record["machine"]), meaning])


def row_of(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Figures of the runs of one row."""
    judged = [outcome for outcome in outcomes if outcome.estimate is not None and outcome.interval is not None]
    errors = [(outcome.estimate or 0.0) - outcome.accuracy for outcome in judged]
    covered = [low <= outcome.accuracy <= high for outcome in judged for low, high in [outcome.interval or (0, 1)]]
    return (
        str(len(outcomes)),
        f"{100 * statistics.fmean(outcome.live for outcome in outcomes):.0f} %",
        f"{100 * statistics.fmean(outcome.accuracy for outcome in outcomes):.1f} %",
        f"{100 * min(outcome.accuracy for outcome in outcomes):.0f} %",
        f"{100 * statistics.fmean(outcome.known for outcome in outcomes):.1f} %",
        f"{100 * statistics.fmean(errors):+.1f}" if errors else "",
        f"{100 * statistics.fmean(covered):.0f} %" if covered else "",
        f"{percentile([outcome.adapt_s for outcome in outcomes], 0.5):.2f} s",
    )


if __name__ == "__main__":
    main()
