"""Reptile compared with MAML on the same work: memory, time and accuracy.

    python benchmarks/meta_algorithms.py --data-root FOLDER [--rounds 7] [--train-seconds 60] [--episodes 200] [--json]

Reptile, first-order MAML and MAML use the same net (the papers' four blocks of 64 channels), tasks and inner loop; only
the meta step differs. The tables show time and memory of a meta step by inner steps, and accuracy after equal training
time; the plot shows all three. Without a data root, generated images replace Omniglot.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.figures import Parser, machine, markdown, percentile, script
from benchmarks.measuring import MIB, clock
from benchmarks.meta_comparison import (
    ALGORITHMS,
    LEARNING_RATES,
    MARKS,
    N_QUERY,
    N_SHOT,
    NAMES,
    Algorithm,
    Data,
    LearningRates,
    Memory,
    Runner,
    Setting,
    TaskStream,
    entries,
    memory_by_entry,
    meta_step_seconds,
    open_data,
    score,
    train_for_equal_time,
    training_step,
)
from models.meta.evaluation import EvaluationConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT: Final = Path(__file__).parents[1] / "docs" / "meta-algorithms.png"
CLAIMED_MEMORY, CLAIMED_TIME = 0.62, 0.97
"""Shares that Reptile is often claimed to save compared with MAML, without a description of the work."""


@dataclass(frozen=True)
class Cost:
    """Cost of an algorithm's meta step at one number of inner steps.

    Attributes:
        seconds: of each measured meta step.
        memory: of a process that runs only such steps.
    """

    algorithm: Algorithm
    inner_steps: int
    seconds: tuple[float, ...]
    memory: Memory

    @property
    def median_s(self) -> float:
        """Median of the seconds."""
        return percentile(self.seconds, 0.5)


@dataclass(frozen=True)
class Result:
    """Accuracy of an algorithm's start after some training.

    Attributes:
        share: share of the training time.
        seconds: training time.
        meta_steps: number of meta steps.
        transductive: accuracy and half of its 95 % interval; queries share normalisation statistics.
        frozen: the same with the support's statistics; None if not measured.
        diverged: whether the training ended early because of infinite numbers.
    """

    algorithm: Algorithm
    inner_steps: int
    share: float
    seconds: float
    meta_steps: int
    transductive: tuple[float, float]
    frozen: tuple[float, float] | None
    diverged: bool = False


@script
def main() -> None:
    """Measure, print the tables, draw the plot."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    found = machine("none", arguments.device, arguments.threads)
    data, device = open_data(arguments.data_root), torch.device(arguments.device)
    setting = Setting(width=arguments.width, seed=arguments.seed)
    rates = {**LEARNING_RATES, **dict(arguments.rates)}
    costs = measure_costs(arguments, setting, TaskStream(data, setting, device), rates)
    results = [
        result
        for steps in arguments.train_inner_steps
        for result in train(arguments, setting, data, rates, steps)
    ]  # fmt: skip
    record = {
        "data": data.name,
        "setting": asdict(setting),
        "learning_rates": {name: asdict(own) for name, own in rates.items()},
        "machine": found,
        "episodes": arguments.episodes,
        "costs": [{**asdict(cost), "median_s": cost.median_s} for cost in costs],
        "saved": {str(steps): both for steps, both in saved(costs).items()},
        "results": [asdict(result) for result in results],
        "summary": "\n".join([summary(costs), *outcomes(results)]),
    }
    print(json.dumps(record, indent=2) if arguments.json else report(record, costs, results, rates))
    shown = [result for result in results if result.inner_steps == results[0].inner_steps]
    save_plot(arguments.plot, costs, shown, clock_name(arguments.device), description(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root("omniglot/")
    parser.option("--width", 64, "channels of the net")
    parser.option("--inner-steps", [1, 5, 10, 20], "inner steps for time and memory")
    parser.option("--train-inner-steps", [5], "inner steps for accuracy; none to skip the training", nargs="*")
    parser.option("--rounds", 7, "timed meta steps of each algorithm", least=1)
    parser.option("--train-seconds", 60.0, "duration of each training; processor time on the CPU", least=1)
    parser.option("--episodes", 200, "episodes for scoring a start", least=2)
    parser.option("--seed", 0, "seed of everything random")
    parser.option("--device", "cpu", "device", choices=("cpu", "cuda"))
    parser.option("--threads", 1, "threads per operation")
    text = "learning rates instead of the built-in ones"
    parser.add_argument("--rates", type=learning_rates, nargs="*", default=[], metavar="NAME=INNER,OUTER", help=text)
    parser.option("--plot", PLOT, "file of the plot")
    parser.json()
    return parser.parse_args()


def learning_rates(text: str) -> tuple[Algorithm, LearningRates]:
    """Parse e.g. "maml=0.1,0.003".

    Raises:
        ValueError: there is no such algorithm, or a rate is not a number.
    """
    name, _, numbers = text.partition("=")
    inner, _, outer = numbers.partition(",")
    if name not in ALGORITHMS:
        raise ValueError(f"got algorithm {name!r}, must be one of {', '.join(ALGORITHMS)}")
    return name, LearningRates(float(inner), float(outer))


def measure_costs(
    arguments: argparse.Namespace, setting: Setting, tasks: TaskStream, rates: Mapping[Algorithm, LearningRates]
) -> list[Cost]:
    """Time and memory of every algorithm at every number of inner steps."""
    device = torch.device(arguments.device)
    contest = entries(arguments.inner_steps, rates)
    supports = [support.to(torch.device("cpu")) for support in tasks(0)]
    measurements = memory_by_entry(contest, setting, supports, device)
    memory = dict(track(measurements, "memory", len(contest), console=Console(stderr=True)))
    seconds = meta_step_seconds(contest, setting, tasks, device, arguments.rounds)
    return [Cost(entry.algorithm, entry.inner_steps, tuple(seconds[entry]), memory[entry]) for entry in contest]


def train(
    arguments: argparse.Namespace, setting: Setting, data: Data, rates: Mapping[Algorithm, LearningRates], steps: int
) -> list[Result]:
    """Train all algorithms for equal time and score them at every mark."""
    device = torch.device(arguments.device)
    runners = [Runner(entry, setting.start(device)) for entry in entries([steps], rates)]
    step = training_step(setting, TaskStream(data, setting, device))
    with Console(stderr=True).status("training") as status:
        for _ in train_for_equal_time(runners, step, arguments.train_seconds, clock(device)):
            used = ", ".join(f"{runner.entry.algorithm} {runner.used_s:.0f} s" for runner in runners)
            status.update(f"training, {steps} inner steps: {used} of {arguments.train_seconds:.0f} s")
    marks = [(runner, number) for runner in runners for number in range(len(MARKS))]
    return [
        result_at_mark(runner, number, arguments, setting, data)
        for runner, number in track(marks, "episodes", console=Console(stderr=True))
    ]


def result_at_mark(
    runner: Runner, number: int, arguments: argparse.Namespace, setting: Setting, data: Data
) -> Result:  # fmt: skip
    """Score the start saved at a mark; with frozen statistics at the last mark only."""
    share, state = runner.saved[number]
    plan = EvaluationConfig(arguments.episodes, arguments.seed, "transductive")
    scores = [score(runner.entry, state.start, setting, data, plan)]
    if number == len(MARKS) - 1:
        scores.append(score(runner.entry, state.start, setting, data, replace(plan, normalisation="frozen")))
    accuracies = [(one.mean, one.half_width) for one in scores]
    return Result(
        runner.entry.algorithm,
        runner.entry.inner_steps,
        share,
        share * arguments.train_seconds,
        state.meta_step,
        accuracies[0],
        accuracies[1] if len(accuracies) > 1 else None,
        runner.diverged,
    )


def description(record: Mapping[str, Any]) -> str:
    """Setting and machine in one line."""
    setting, found = record["setting"], record["machine"]
    return (
        f"{record['data']}; a meta step has {setting['meta_batch']} tasks of {setting['n_way']} classes x "
        f"{setting['shots']} images, an inner step {setting['batch_size']} images per task; conv4 with "
        f"{setting['width']} channels, seed {setting['seed']}; torch {found['torch']} on {found['device']}, "
        f"{found['torch_threads']} thread(s)"
    )


def report(
    record: Mapping[str, Any],
    costs: Sequence[Cost],
    results: Sequence[Result],
    rates: Mapping[Algorithm, LearningRates],
) -> str:
    """The results as text."""
    found = record["machine"]
    kind = clock_name(found["device"])
    held = max(cost.memory.before_bytes for cost in costs) / MIB
    lines = [
        description(record),
        f"{found['cores']} cores ({found['processor']}), load {found['load_before']} before the run",
        f"\nTime of a meta step, milliseconds of {kind}: median of {len(costs[0].seconds)} alternating runs\n",
        cost_table(costs, "seconds"),
        f"\nPeak memory of a meta step, MiB above the memory of the process before it (at most {held:.0f})\n",
        cost_table(costs, "memory"),
    ]
    if results:
        scored = f"{N_SHOT} shots, {N_QUERY} queries per class, {record['episodes']} episodes, 95 % interval"
        lines += [
            f"\nAfter {results[-1].seconds:g} s of {kind} in training each: {scored}\n",
            result_table(results, rates),
        ]
    return "\n".join([*lines, "", str(record["summary"])])


def clock_name(device: str) -> str:
    """The kind of time that is measured."""
    return "processor time" if device == "cpu" else "elapsed time"


def saved(costs: Sequence[Cost]) -> Mapping[int, tuple[float, float]]:
    """Inner steps -> the shares of MAML's memory and seconds that Reptile saves."""
    by_name = {(cost.algorithm, cost.inner_steps): cost for cost in costs}
    shares = {}
    for steps in sorted({cost.inner_steps for cost in costs}):
        reptile, maml = by_name["reptile", steps], by_name["maml", steps]
        memory = 1 - reptile.memory.added_bytes / max(maml.memory.added_bytes, 1)
        shares[steps] = (memory, 1 - reptile.median_s / maml.median_s)
    return shares


def growth(costs: Sequence[Cost], algorithm: Algorithm) -> tuple[float, float] | None:
    """MiB and seconds per further inner step, from the fewest to the most; None with one number of steps."""
    own = sorted((cost for cost in costs if cost.algorithm == algorithm), key=lambda cost: cost.inner_steps)
    steps = own[-1].inner_steps - own[0].inner_steps
    if not steps:
        return None
    added_bytes = own[-1].memory.added_bytes - own[0].memory.added_bytes
    return added_bytes / MIB / steps, (own[-1].median_s - own[0].median_s) / steps


def cost_table(costs: Sequence[Cost], what: str) -> str:
    """A row for each number of inner steps; `what` is "seconds" or "memory"."""
    rows = []
    for steps in sorted({cost.inner_steps for cost in costs}):
        numbers = {
            cost.algorithm: cost.median_s * 1e3 if what == "seconds" else cost.memory.added_bytes / MIB
            for cost in costs
            if cost.inner_steps == steps
        }
        ratio = numbers["maml"] / max(numbers["reptile"], 1e-9)
        rows.append((str(steps), *(f"{numbers[name]:.0f}" for name in ALGORITHMS), f"{ratio:.1f}"))
    grown = [growth(costs, name) for name in ALGORITHMS]
    if all(grown):
        index, unit = (1, 1e3) if what == "seconds" else (0, 1.0)
        rows.append(("each further step", *(f"{both[index] * unit:+.1f}" for both in grown if both), ""))
    return markdown(("inner steps", *(NAMES[name] for name in ALGORITHMS), "MAML / Reptile"), rows)


def result_table(results: Sequence[Result], rates: Mapping[Algorithm, LearningRates]) -> str:
    """A row for each algorithm at the end of its training."""
    rows = [
        (
            NAMES[result.algorithm],
            str(result.inner_steps),
            f"{rates[result.algorithm].inner:g}, {rates[result.algorithm].outer:g}",
            f"{result.meta_steps}" + (" (diverged)" if result.diverged else ""),
            accuracy(result.transductive),
            accuracy(result.frozen),
        )
        for result in results
        if result.share == 1.0
    ]
    rate, transductive = "inner, outer learning rate", "accuracy, transductive"
    return markdown(("algorithm", "inner steps", rate, "meta steps", transductive, "frozen statistics"), rows)


def accuracy(score: tuple[float, float] | None) -> str:
    """Mean and half of the interval in per cent; empty for None."""
    return "" if score is None else f"{100 * score[0]:.2f} ± {100 * score[1]:.2f} %"


def summary(costs: Sequence[Cost]) -> str:
    """The claim about Reptile compared with the measurements, in a few sentences."""
    shares = saved(costs)
    memory = {steps: both[0] for steps, both in shares.items()}
    time = {steps: both[1] for steps, both in shares.items()}
    held = {
        (cost.algorithm, cost.inner_steps): cost.memory.before_bytes + cost.memory.added_bytes for cost in costs
    }  # fmt: skip
    whole = {steps: 1 - held["reptile", steps] / held["maml", steps] for steps in shares}
    ratios = [f"{1 / (1 - share):.1f}" for share in (min(time.values()), max(time.values()))]
    needed, here = f"{1 / (1 - CLAIMED_TIME):.0f}", " to ".join(dict.fromkeys(ratios))
    slower = f"MAML would have to take {needed} times as long as Reptile, and takes {here} times as long here"
    lines = [
        f"Claim: Reptile takes {100 * CLAIMED_MEMORY:.0f} % less memory and {100 * CLAIMED_TIME:.0f} % less time.",
        f"On the same work its meta step takes {_by_steps(memory)} less memory and {_by_steps(time)} less time.",
        f"The {100 * CLAIMED_MEMORY:.0f} % of memory {_reached(memory, CLAIMED_MEMORY)}.",
        f"Of the memory of the whole process, Reptile saves {_by_steps(whole)}.",
        f"The {100 * CLAIMED_TIME:.0f} % of time {_reached(time, CLAIMED_TIME)}: {slower}.",
    ]
    grown = {name: growth(costs, name) for name in ALGORITHMS}
    if grown["reptile"] and grown["maml"]:
        lines.append(
            f"Each further inner step adds {grown['maml'][0]:.1f} MiB to MAML, which keeps its graph, and "
            f"{grown['reptile'][0]:.1f} MiB to Reptile: the saving in memory depends on the number of inner steps."
        )
    return "\n".join(lines)


def outcomes(results: Sequence[Result]) -> list[str]:
    """A sentence on the accuracies after equal training time for each number of inner steps."""
    sentences = []
    for steps in sorted({result.inner_steps for result in results}):
        ends = [result for result in results if result.inner_steps == steps and result.share == 1.0]
        reached = ", ".join(
            f"{NAMES[end.algorithm]} {accuracy(end.transductive)} after {end.meta_steps} meta steps" for end in ends
        )
        sentences.append(f"In equal training time ({ends[0].seconds:g} s each, {steps} inner steps): {reached}.")
    return sentences


def _by_steps(shares: Mapping[int, float]) -> str:
    """E.g. "10, 20 % (at 1, 5 inner steps)"."""
    numbers = ", ".join(f"{100 * share:.0f}" for share in shares.values())
    return f"{numbers} % (at {', '.join(map(str, shares))} inner steps)"


def _reached(shares: Mapping[int, float], claimed: float) -> str:
    reached = [str(steps) for steps, share in shares.items() if share >= claimed]
    return f"is reached at {', '.join(reached)} inner steps" if reached else "is not reached"


_COLOURS: Final[Mapping[Algorithm, str]] = {"reptile": "#0072B2", "fomaml": "#009E73", "maml": "#D55E00"}
"""Distinct for colour-blind readers (Okabe & Ito 2008); markers and dashes distinguish the lines without colour."""
_MARKERS: Final[Mapping[Algorithm, str]] = {"reptile": "o", "fomaml": "s", "maml": "^"}
_SIZES: Final[Mapping[Algorithm, float]] = {"reptile": 10, "fomaml": 5, "maml": 7}
"""Reptile and FOMAML often coincide: the small marker is visible inside the large one."""
_DASHES: Final[Mapping[Algorithm, str]] = {"reptile": "-", "fomaml": "--", "maml": "-"}
_OFFSETS: Final[Mapping[Algorithm, float]] = {"reptile": 0.97, "fomaml": 1.0, "maml": 1.03}
"""Factors that keep intervals at the same time from overlapping."""


def save_plot(path: Path, costs: Sequence[Cost], results: Sequence[Result], time: str, footer: str) -> None:
    """Write the plot if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed (extra `plot`)", file=sys.stderr)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plot(costs, results, time, footer))
    print(f"plot: {path}", file=sys.stderr)


def plot(costs: Sequence[Cost], results: Sequence[Result], time: str, footer: str) -> bytes:
    """Time and memory over inner steps, and accuracy over training time: a PNG of 1950 x 750 pixels.

    Args:
        costs: of every algorithm at every number of inner steps.
        results: of one number of inner steps at every mark; empty without a training.
        time: the kind of time.
        footer: setting and machine.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), dpi=150, layout="constrained")
    seconds, memory, accuracy = figure.subplots(1, 3)
    _plot_costs(seconds, costs, {cost: cost.median_s for cost in costs})
    seconds.set(title="Time of a meta step", ylabel=f"seconds of {time}")
    _plot_costs(memory, costs, {cost: cost.memory.added_bytes / MIB for cost in costs})
    memory.set(title="Peak memory of a meta step", ylabel="MiB above the memory of the process before it")
    if results:
        _plot_results(accuracy, results, time)
    else:
        accuracy.set_visible(False)
    for axes in (seconds, memory, accuracy):
        axes.grid(alpha=0.3, which="major")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = seconds.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(ALGORITHMS), frameon=False, fontsize=11)
    figure.supxlabel(footer, fontsize=7.5, color="#555555")
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _style(algorithm: Algorithm) -> dict[str, Any]:
    return {
        "color": _COLOURS[algorithm],
        "marker": _MARKERS[algorithm],
        "markersize": _SIZES[algorithm],
        "markerfacecolor": "white" if algorithm == "fomaml" else _COLOURS[algorithm],
        "linestyle": _DASHES[algorithm],
        "label": NAMES[algorithm],
        "linewidth": 1.8,
    }


def _plot_costs(axes: Axes, costs: Sequence[Cost], heights: Mapping[Cost, float]) -> None:
    """One line per algorithm over inner steps; both axes are logarithmic."""
    from matplotlib.ticker import LogLocator, NullLocator

    for algorithm in ALGORITHMS:
        own = sorted((cost for cost in costs if cost.algorithm == algorithm), key=lambda cost: cost.inner_steps)
        axes.plot([cost.inner_steps for cost in own], [heights[cost] for cost in own], **_style(algorithm))
    axes.set(xscale="log", yscale="log", xlabel="inner steps")
    _set_ticks(axes, sorted({cost.inner_steps for cost in costs}))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _plot_results(axes: Axes, results: Sequence[Result], time: str) -> None:
    """One line per algorithm over training time, with intervals."""
    for algorithm in ALGORITHMS:
        own = [result for result in results if result.algorithm == algorithm]
        axes.errorbar(
            [result.seconds * _OFFSETS[algorithm] for result in own],
            [100 * result.transductive[0] for result in own],
            yerr=[100 * result.transductive[1] for result in own],
            capsize=3,
            **_style(algorithm),
        )
    axes.set(title=f"Accuracy after equal time, {results[0].inner_steps} inner steps")
    axes.set(xscale="log", xlabel=f"seconds of training ({time})", ylabel="accuracy on new classes, 5-way 5-shot, %")
    _set_ticks(axes, sorted({result.seconds for result in results}))


def _set_ticks(axes: Axes, positions: Sequence[float]) -> None:
    """Labelled ticks at these positions of the horizontal axis only."""
    axes.set_xticks(positions, [f"{position:g}" for position in positions])
    axes.xaxis.minorticks_off()


if __name__ == "__main__":
    main()
