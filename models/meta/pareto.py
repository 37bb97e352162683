"""The trials of a search that no other trial beats in both accuracy and time, and their picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from models.meta.search import TrialResult


def pareto_front(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The complete trials that no complete trial beats in both accuracy and time, fastest first."""
    front: list[TrialResult] = []
    complete = [result for result in results if result.outcome == "complete"]
    for result in sorted(complete, key=lambda each: (each.ms or 0.0, -(each.accuracy or 0.0))):
        if not front or (result.accuracy or 0.0) > (front[-1].accuracy or 0.0):
            front.append(result)
    return front


def plot_pareto(results: Sequence[TrialResult]) -> bytes:
    """Plot accuracy against milliseconds per image: a PNG of 1200 x 675 pixels.

    Raises:
        ImportError: matplotlib is not installed; see `models.meta.curve.can_plot`.
    """
    from matplotlib.figure import Figure

    front = pareto_front(results)
    complete = [result for result in results if result.outcome == "complete"]
    others = [result for result in results if result.outcome != "complete" and result.accuracy is not None]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.scatter(*_points(others), color="#9db7cf", s=18, label="not complete, at their last rung")
    axes.scatter(*_points(complete), color="#14507e", s=30, label="complete")
    axes.plot(*_points(front), color="#14507e", linewidth=1, label="best for their time")
    for result in {each.number: each for each in (*complete[:1], *front)}.values():
        place = (result.ms or 0.0, 100 * (result.accuracy or 0.0))
        axes.annotate(f"{result.number}", place, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="milliseconds per image", ylabel="accuracy on validation classes (%)")
    axes.set_xlim(left=0)
    axes.set(title=f"{len(results)} trials; 0 is the preset's own net")
    axes.legend(frameon=False, loc="upper left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _points(results: Sequence[TrialResult]) -> tuple[list[float], list[float]]:
    """Milliseconds and percent."""
    return [each.ms or 0.0 for each in results], [100 * (each.accuracy or 0.0) for each in results]
