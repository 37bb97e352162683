"""Reptile compared with MAML on the same work: memory, time and accuracy.

    python benchmarks/meta_algorithms.py --data-root FOLDER [--rounds 7] [--train-seconds 60] [--episodes 200] [--json]

Reptile, first-order MAML and MAML use the same net (the papers' four blocks of 64 channels), tasks and inner loop; only
the meta step differs. The tables show time and memory of a meta step by inner steps, and accuracy after equal training
time; the plot shows all three. Without a data root, generated images replace Omniglot.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.figures import machine
from benchmarks.meta_costs import clock, interleaved_seconds, memory_apart
from benchmarks.meta_picture import Drawing, picture
from benchmarks.meta_race import MARKS, N_QUERY, N_SHOT, Runner, race, score, step_of
from benchmarks.meta_report import MIB, Cost, Result, cost_table, outcomes, result_table, saved, verdict
from benchmarks.meta_work import (
    RATES,
    Algorithm,
    Data,
    StepSizes,
    TaskStream,
    Work,
    algorithm_named,
    entries,
    open_data,
)
from benchmarks.running_service import ServiceOptions
from models.errors import AnoleError
from models.meta.evaluation import EvaluationConfig

PICTURE = Path(__file__).parents[1] / "docs" / "meta-algorithms.png"


def main() -> None:
    """Measure, print the tables, draw the picture."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    try:
        measure(arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data-root", type=Path, default=None, help="folder with Omniglot (default: generated images)")
    add("--width", type=int, default=64, help="channels of the net (default: %(default)s)")
    add("--inner-steps", type=int, nargs="+", default=[1, 5, 10, 20], help="for time and memory; 1 5 10 20")
    add("--train-inner-steps", type=int, nargs="*", default=[5], help="for accuracy (default: 5)")
    add("--rounds", type=int, default=7, help="meta steps timed of each (default: %(default)s)")
    add("--train-seconds", type=float, default=60.0, help="of each training; processor time on the CPU; 60")
    add("--episodes", type=int, default=200, help="that a start is scored on (default: %(default)s)")
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=1, help="inside one operation (default: %(default)s)")
    add("--rates", type=rates_of, nargs="*", default=[], metavar="NAME=INNER,OUTER", help="instead of the built-in")
    add("--picture", type=Path, default=PICTURE, help="where to draw (default: docs/meta-algorithms.png)")
    add("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if arguments.episodes < 2 or arguments.rounds < 1 or arguments.train_seconds <= 0:
        parser.error("an interval needs 2 episodes, a median 1 round, a training some time")
    return arguments


def rates_of(text: str) -> tuple[Algorithm, StepSizes]:
    """An algorithm and its rates out of e.g. "maml=0.1,0.003"."""
    name, _, numbers = text.partition("=")
    inner, _, outer = numbers.partition(",")
    return algorithm_named(name), StepSizes(float(inner), float(outer))


def measure(arguments: argparse.Namespace) -> None:
    """Time, memory and accuracy, in this order."""
    found = machine(ServiceOptions("", arguments.device, arguments.threads))
    data, device = open_data(arguments.data_root), torch.device(arguments.device)
    work = Work(width=arguments.width, seed=arguments.seed)
    rates = {**RATES, **dict(arguments.rates)}
    costs = measured_costs(arguments, work, TaskStream(data, work, device), rates)
    results = [
        result for steps in arguments.train_inner_steps for result in trained(arguments, work, data, rates, steps)
    ]
    record = {
        "data": data.name,
        "work": dataclasses.asdict(work),
        "rates": {name: dataclasses.asdict(own) for name, own in rates.items()},
        "machine": found,
        "episodes": arguments.episodes,
        "costs": [{**dataclasses.asdict(cost), "median_s": cost.median_s} for cost in costs],
        "saved": {str(steps): both for steps, both in saved(costs).items()},
        "results": [dataclasses.asdict(result) for result in results],
        "verdict": "\n".join([verdict(costs), *outcomes(results)]),
    }
    print(json.dumps(record, indent=2) if arguments.json else told(record, costs, results, rates))
    first = [result for result in results if result.inner_steps == results[0].inner_steps]
    draw(arguments.picture, Drawing(costs, first, kind_of_time(arguments.device), described(record)))


def measured_costs(
    arguments: argparse.Namespace, work: Work, tasks: TaskStream, rates: Mapping[Algorithm, StepSizes]
) -> list[Cost]:
    """Seconds and memory of every algorithm at every number of inner steps."""
    device = torch.device(arguments.device)
    contest = entries(arguments.inner_steps, rates)
    supports = [support.to(torch.device("cpu")) for support in tasks(0)]
    apart = memory_apart(contest, work, supports, device)
    memory = dict(track(apart, "memory", len(contest), console=Console(stderr=True)))
    seconds = interleaved_seconds(contest, work, tasks, device, arguments.rounds)
    return [Cost(entry.algorithm, entry.inner_steps, tuple(seconds[entry]), memory[entry]) for entry in contest]


def trained(
    arguments: argparse.Namespace, work: Work, data: Data, rates: Mapping[Algorithm, StepSizes], steps: int
) -> list[Result]:
    """All algorithms after equal training time, scored at every mark."""
    device = torch.device(arguments.device)
    runners = [Runner(entry, work.start(device)) for entry in entries([steps], rates)]
    step = step_of(work, TaskStream(data, work, device))
    with Console(stderr=True).status("training") as shown:
        for _ in race(runners, step, arguments.train_seconds, clock(device)):
            used = ", ".join(f"{runner.entry.algorithm} {runner.used_s:.0f} s" for runner in runners)
            shown.update(f"training, {steps} inner steps: {used} of {arguments.train_seconds:.0f} s")
    places = [(runner, place) for runner in runners for place in range(len(MARKS))]
    return [
        result_of(runner, place, arguments, work, data)
        for runner, place in track(places, "episodes", console=Console(stderr=True))
    ]


def result_of(runner: Runner, place: int, arguments: argparse.Namespace, work: Work, data: Data) -> Result:
    """The score of what a runner had at one mark; with frozen statistics at the last one alone."""
    share, state = runner.kept[place]
    plan = EvaluationConfig(arguments.episodes, arguments.seed, "transductive")
    alike = score(runner.entry, state.start, work, data, plan)
    last = place == len(MARKS) - 1
    alone = (
        score(runner.entry, state.start, work, data, dataclasses.replace(plan, normalisation="frozen"))
        if last
        else None
    )
    return Result(
        runner.entry.algorithm,
        runner.entry.inner_steps,
        share,
        share * arguments.train_seconds,
        state.meta_step,
        (alike.mean, alike.half_width),
        (alone.mean, alone.half_width) if alone else None,
        runner.diverged,
    )


def described(record: Mapping[str, Any]) -> str:
    """The work and the machine in one line."""
    work, found = record["work"], record["machine"]
    return (
        f"{record['data']}; a meta step has {work['meta_batch']} tasks of {work['n_way']} classes x {work['shots']} "
        f"images, an inner step {work['batch_size']} images a task; conv4 of {work['width']} channels, "
        f"seed {work['seed']}; torch {found['torch']} on {found['device']}, {found['torch_threads']} thread(s)"
    )


def told(
    record: Mapping[str, Any],
    costs: Sequence[Cost],
    results: Sequence[Result],
    rates: Mapping[Algorithm, StepSizes],
) -> str:
    """Format the results as a table."""
    found = record["machine"]
    kind = kind_of_time(found["device"])
    held = max(cost.memory.before_bytes for cost in costs) / MIB
    lines = [
        described(record),
        f"{found['cores']} cores ({found['processor']}), load {found['load_before']} before the run",
        f"\nTime of a meta step, milliseconds of {kind}: median of {len(costs[0].seconds)}, by turns\n",
        cost_table(costs, "seconds"),
        f"\nPeak memory of a meta step, MiB on top of at most {held:.0f} that the process held before it\n",
        cost_table(costs, "memory"),
    ]
    if results:
        scored = f"{N_SHOT} shots, {N_QUERY} queries a class, {record['episodes']} episodes, 95 % interval"
        lines += [
            f"\nAfter {results[-1].seconds:g} s of {kind} in training each: {scored}\n",
            result_table(results, rates),
        ]
    return "\n".join([*lines, "", str(record["verdict"])])


def kind_of_time(device: str) -> str:
    """What the clock counts."""
    return "processor time" if device == "cpu" else "elapsed time"


def draw(path: Path, drawing: Drawing) -> None:
    """Write the picture where matplotlib is installed, and say so."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed (the extra `plot`)", file=sys.stderr)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(drawing))
    print(f"drawn: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
