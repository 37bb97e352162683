"""The learning curve of a training: rows in a CSV file and, where matplotlib is installed, the same as a picture.

It knows numbers of meta steps and losses, and nothing of nets and data. Files are replaced whole, so that a kill in the
middle of writing leaves the curve of before.
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
ROW_EVERY = 50
"""Meta steps that a row is the mean of."""

_REACH = 10
"""Rows on both sides that the picture's smooth line is the mean of; a twentieth of them all while there are few."""

Row = tuple[int, float, float]
"""Meta step, mean loss since the row before, seconds of training so far."""


def can_draw() -> bool:
    """Whether matplotlib (the extra ``plot``) is installed, so that there are pictures."""
    return importlib.util.find_spec("matplotlib") is not None


class Curve:
    """A training's learning curve.

    Rows stand at the multiples of `ROW_EVERY` and at the end, whether a training was interrupted or not: what belongs
    to no full row yet is written as a last row of its own, and taken up again from there.

    Args:
        path: of the CSV file; the picture lies beside it with the ending ``.png``.

    Attributes:
        rows: the full ones, and the end's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[Row] = []
        self._since: list[float] = []
        self._latest: deque[float] = deque(maxlen=ROW_EVERY)
        self._at = 0
        self._seconds = self._seconds_before = 0.0

    @property
    def loss(self) -> float:
        """Mean loss of the last `ROW_EVERY` meta steps that are known one by one; NaN before the first."""
        return sum(self._latest) / len(self._latest) if self._latest else float("nan")

    def cut(self, meta_step: int) -> None:
        """Take up the rows on disk that are not beyond `meta_step`."""
        if meta_step and self._path.is_file():
            with self._path.open(newline="") as file:
                rows = [(int(row[0]), float(row[1]), float(row[2])) for row in list(csv.reader(file))[1:]]
            self.rows = [row for row in rows if row[0] <= meta_step]
        self._at = meta_step
        self._seconds = self._seconds_before = self.rows[-1][2] if self.rows else 0.0
        if self.rows and self.rows[-1][0] % ROW_EVERY:
            step, loss, _ = self.rows.pop()
            self._since = [loss] * (step - (self.rows[-1][0] if self.rows else 0))

    def add(self, meta_step: int, loss: float, seconds: float, *, last: bool) -> None:
        """Take in one meta step's loss, `seconds` after this process began; the `last` one ends a row."""
        self._since.append(loss)
        self._latest.append(loss)
        self._at, self._seconds = meta_step, self._seconds_before + seconds
        if last or meta_step % ROW_EVERY == 0:
            self.rows.append(self._unfinished_row())
            self._since.clear()

    def _unfinished_row(self) -> Row:
        return (self._at, sum(self._since) / len(self._since), self._seconds)

    def save(self) -> None:
        """Write the rows and, where it can be drawn and there is something to see, the picture."""
        rows = [*self.rows, self._unfinished_row()] if self._since else self.rows
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(HEADER)
        writer.writerows((step, f"{loss:.5f}", f"{seconds:.1f}") for step, loss, seconds in rows)
        write_atomically(self._path, text.getvalue().encode(), durable=False)
        if rows and can_draw():
            write_atomically(self._path.with_suffix(".png"), picture(self._path.stem, rows), durable=False)


def picture(title: str, rows: Sequence[Row]) -> bytes:
    """Draw the loss over the meta steps, each row and a moving mean: a PNG of 1200 x 675 pixels.

    Raises:
        ImportError: matplotlib is not installed; see `can_draw`.
    """
    from matplotlib.figure import Figure

    steps, losses = [row[0] for row in rows], [row[1] for row in rows]
    reach = min(_REACH, len(rows) // 20)
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9db7cf", linewidth=1, marker="o" if len(rows) < 20 else "", label="each row")
    if reach:
        smooth = centred_mean(losses, reach)
        axes.plot(steps, smooth, color="#14507e", linewidth=2, label=f"mean of {2 * reach + 1} rows")
        axes.legend(frameon=False)
    axes.set(title=f"{title}: {rows[-1][0]} meta steps in {_duration(rows[-1][2])}")
    axes.set(xlabel="meta step", ylabel="training loss (cross-entropy, nats)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def centred_mean(values: Sequence[float], reach: int) -> list[float]:
    """For each value the mean of itself and its neighbours up to `reach` on both sides, of fewer near the ends.

    As many on the one side as on the other: a curve that falls is not drawn later than it fell.
    """
    means = []
    for place in range(len(values)):
        own = min(reach, place, len(values) - 1 - place)
        near = values[place - own : place + own + 1]
        means.append(sum(near) / len(near))
    return means


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
