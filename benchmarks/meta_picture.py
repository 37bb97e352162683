"""Plots the comparison of meta-learning algorithms."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.meta_report import MIB, Cost, Result
from benchmarks.meta_work import ALGORITHMS, NAMES, Algorithm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final[Mapping[Algorithm, str]] = {"reptile": "#0072B2", "fomaml": "#009E73", "maml": "#D55E00"}
"""Told apart with any colour vision (Okabe & Ito 2008); marks and dashes tell them apart without colour."""
_MARKS: Final[Mapping[Algorithm, str]] = {"reptile": "o", "fomaml": "s", "maml": "^"}
_SIZES: Final[Mapping[Algorithm, float]] = {"reptile": 10, "fomaml": 5, "maml": 7}
"""Reptile and FOMAML often lie on each other: the small mark shows inside the large one."""
_DASHES: Final[Mapping[Algorithm, str]] = {"reptile": "-", "fomaml": "--", "maml": "-"}
_APART: Final[Mapping[Algorithm, float]] = {"reptile": 0.97, "fomaml": 1.0, "maml": 1.03}
"""Keeps intervals at the same time from hiding each other."""


@dataclass(frozen=True)
class Drawing:
    """Content of the plot.

    Attributes:
        costs: of every algorithm, at every number of inner steps.
        results: of one number of inner steps, at every mark; empty without a training.
        time: what the seconds are, in words.
        work: the work and the machine, for the line below.
    """

    costs: Sequence[Cost]
    results: Sequence[Result]
    time: str
    work: str


def picture(drawing: Drawing) -> bytes:
    """Seconds and memory over inner steps, accuracy over training time: a PNG of 1950 x 750 pixels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), dpi=150, layout="constrained")
    seconds, memory, accuracy = figure.subplots(1, 3)
    _draw_costs(seconds, drawing.costs, {cost: cost.median_s for cost in drawing.costs})
    seconds.set(title="Time of a meta step", ylabel=f"seconds of {drawing.time}")
    _draw_costs(memory, drawing.costs, {cost: cost.memory.added_bytes / MIB for cost in drawing.costs})
    memory.set(title="Peak memory of a meta step", ylabel="MiB, on top of what the process holds")
    if drawing.results:
        _draw_results(accuracy, drawing.results, drawing.time)
    else:
        accuracy.set_visible(False)
    for axes in (seconds, memory, accuracy):
        axes.grid(alpha=0.3, which="major")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = seconds.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(ALGORITHMS), frameon=False, fontsize=11)
    figure.supxlabel(drawing.work, fontsize=7.5, color="#555555")
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _style(algorithm: Algorithm) -> dict[str, Any]:
    return {
        "color": _COLOURS[algorithm],
        "marker": _MARKS[algorithm],
        "markersize": _SIZES[algorithm],
        "markerfacecolor": "white" if algorithm == "fomaml" else _COLOURS[algorithm],
        "linestyle": _DASHES[algorithm],
        "label": NAMES[algorithm],
        "linewidth": 1.8,
    }


def _draw_costs(axes: Axes, costs: Sequence[Cost], heights: Mapping[Cost, float]) -> None:
    """One line an algorithm over inner steps, both axes logarithmic."""
    from matplotlib.ticker import LogLocator, NullLocator

    for algorithm in ALGORITHMS:
        own = sorted((cost for cost in costs if cost.algorithm == algorithm), key=lambda cost: cost.inner_steps)
        axes.plot([cost.inner_steps for cost in own], [heights[cost] for cost in own], **_style(algorithm))
    axes.set(xscale="log", yscale="log", xlabel="inner steps")
    _label_all(axes, sorted({cost.inner_steps for cost in costs}))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_results(axes: Axes, results: Sequence[Result], time: str) -> None:
    """One line an algorithm over training time, with its intervals."""
    for algorithm in ALGORITHMS:
        own = [result for result in results if result.algorithm == algorithm]
        axes.errorbar(
            [result.seconds * _APART[algorithm] for result in own],
            [100 * result.transductive[0] for result in own],
            yerr=[100 * result.transductive[1] for result in own],
            capsize=3,
            **_style(algorithm),
        )
    axes.set(title=f"Accuracy after equal time, {results[0].inner_steps} inner steps")
    axes.set(xscale="log", xlabel=f"seconds of training ({time})", ylabel="accuracy on new classes, 5-way 5-shot, %")
    _label_all(axes, sorted({result.seconds for result in results}))


def _label_all(axes: Axes, places: Sequence[float]) -> None:
    """A tick with its number at each place of the horizontal axis, and none elsewhere."""
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.minorticks_off()
