"""Plot means with their 95 % intervals, in rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

from benchmarks.reliability import COLOURS
from models.meta.evaluation import Score

Rows = Mapping[str, Mapping[str, Score]]
"""Row -> series -> mean and interval. All panels of a plot have the same rows and series."""

ROW: Final = 0.32
"""Height of a row, in inches."""
PANEL: Final = 3.4
"""Width of a panel without the names of rows, in inches."""
LETTER: Final = 0.07
"""Width of a letter of these names, in inches."""
SPREAD: Final = 0.4
"""Distance between the first and the last series of a row, in rows."""


def plot_intervals(panels: Mapping[str, Rows], meaning: str, *, against: float | None = None) -> bytes:
    """Plot each panel, side by side: title -> rows. Returns a PNG.

    Args:
        panels: shares, which are plotted in percent.
        meaning: what the numbers are, below each panel.
        against: where a vertical line is drawn, in percent, for numbers that are compared with it.

    Raises:
        ImportError: matplotlib is not installed: pip install -e '.[plot]'.
    """
    from matplotlib.figure import Figure

    first = next(iter(panels.values()))
    names, series = list(first), list(next(iter(first.values())))
    width = PANEL * len(panels) + LETTER * max(map(len, names))
    figure = Figure(figsize=(width, 1.2 + ROW * len(names)), dpi=100, layout="constrained")
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for (title, rows), axes in zip(panels.items(), columns, strict=True):
        if against is not None:
            axes.axvline(against, color="#888888", linewidth=1)
        for index, (name, colour) in enumerate(zip(series, COLOURS, strict=False)):
            shift = SPREAD * (index / (len(series) - 1) - 0.5) if len(series) > 1 else 0.0
            scores = [rows[row][name] for row in names]
            places = [place + shift for place in range(len(names))]
            means, widths = [100 * each.mean for each in scores], [100 * each.half_width for each in scores]
            axes.errorbar(means, places, xerr=widths, fmt="o", color=colour, markersize=4, linewidth=1.2, label=name)
        axes.set(title=title, xlabel=meaning, yticks=range(len(names)), yticklabels=names)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    columns[0].invert_yaxis()
    if len(series) > 1:
        marks, _ = columns[0].get_legend_handles_labels()
        figure.legend(marks, series, loc="outside upper center", ncols=len(series), frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
