"""Learning curve of a training run: a CSV file and, if matplotlib is installed, a plot.

Files are replaced atomically, so an interrupted write leaves the previous curve.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from models.atomic_files import write_atomically

HEADER = ("meta_step", "loss", "seconds")
STEPS_PER_ROW = 50
"""Meta steps averaged in one row."""

_MAX_HALF_WINDOW = 10
"""Rows on each side that the plot's moving average covers; short curves use a twentieth of their rows."""

Row = tuple[int, float, float]
"""(meta step, mean loss since the previous row, seconds of training so far)."""


def can_plot() -> bool:
    """Whether matplotlib (the extra ``plot``) is installed."""
    return importlib.util.find_spec("matplotlib") is not None


class LearningCurve:
    """Learning curve of a training run.

    There is a row at each multiple of `STEPS_PER_ROW` and one at the end. An interrupted run writes its unfinished row
    last and continues it after resuming, so its rows are those of an uninterrupted run.

    Args:
        path: path of the CSV file; the plot is saved beside it as ``.png``.

    Attributes:
        rows: finished rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[Row] = []
        self._unfinished: list[float] = []  # losses since the last row
        self._recent: deque[float] = deque(maxlen=STEPS_PER_ROW)
        self._meta_step = 0
        self._seconds = self._seconds_before = 0.0

    @property
    def loss(self) -> float:
        """Mean loss of the last `STEPS_PER_ROW` meta steps of this process; NaN before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else float("nan")

    def resume(self, meta_step: int) -> None:
        """Load the rows on disk up to `meta_step` and drop later ones."""
        if meta_step and self._path.is_file():
            with self._path.open(newline="") as file:
                rows = [(int(row[0]), float(row[1]), float(row[2])) for row in list(csv.reader(file))[1:]]
            self.rows = [row for row in rows if row[0] <= meta_step]
        self._meta_step = meta_step
        self._seconds = self._seconds_before = self.rows[-1][2] if self.rows else 0.0
        if self.rows and self.rows[-1][0] % STEPS_PER_ROW:
            step, loss, _ = self.rows.pop()
            self._unfinished = [loss] * (step - (self.rows[-1][0] if self.rows else 0))

    def append(self, meta_step: int, loss: float, seconds: float, *, last: bool) -> None:
        """Add the loss of one meta step, `seconds` after this process began; `last` finishes the row."""
        self._unfinished.append(loss)
        self._recent.append(loss)
        self._meta_step, self._seconds = meta_step, self._seconds_before + seconds
        if last or meta_step % STEPS_PER_ROW == 0:
            self.rows.append(self._unfinished_row())
            self._unfinished.clear()

    def _unfinished_row(self) -> Row:
        return (self._meta_step, sum(self._unfinished) / len(self._unfinished), self._seconds)

    def save(self) -> None:
        """Write the CSV file and, if matplotlib is installed, the plot."""
        rows = [*self.rows, self._unfinished_row()] if self._unfinished else self.rows
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(HEADER)
        writer.writerows((step, f"{loss:.5f}", f"{seconds:.1f}") for step, loss, seconds in rows)
        write_atomically(self._path, text.getvalue().encode(), durable=False)
        if rows and can_plot():
            write_atomically(self._path.with_suffix(".png"), plot(self._path.stem, rows), durable=False)


def plot(title: str, rows: Sequence[Row]) -> bytes:
    """Plot the loss of each row and its moving average: a PNG of 1200 x 675 pixels.

    Raises:
        ImportError: matplotlib is not installed; see `can_plot`.
    """
    from matplotlib.figure import Figure

    steps, losses = [row[0] for row in rows], [row[1] for row in rows]
    half_window = min(_MAX_HALF_WINDOW, len(rows) // 20)
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9db7cf", linewidth=1, marker="o" if len(rows) < 20 else "", label="each row")
    if half_window:
        smooth = moving_average(losses, half_window)
        axes.plot(steps, smooth, color="#14507e", linewidth=2, label=f"mean of {2 * half_window + 1} rows")
        axes.legend(frameon=False)
    axes.set(title=f"{title}: {rows[-1][0]} meta steps in {_duration(rows[-1][2])}")
    axes.set(xlabel="meta step", ylabel="training loss (cross-entropy, nats)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def moving_average(values: Sequence[float], half_window: int) -> list[float]:
    """Centred moving average over up to `half_window` neighbours on each side.

    The window shrinks symmetrically near the ends, so that the smooth line does not lag behind the curve.
    """
    means = []
    for index in range(len(values)):
        half = min(half_window, index, len(values) - 1 - index)
        window = values[index - half : index + half + 1]
        means.append(sum(window) / len(window))
    return means


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
