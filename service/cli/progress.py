"""How far a long command is: a live line on a terminal, a plain line now and then anywhere else. Knows no command."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from service.cli.console import notices, plain

LINE_EVERY_S: Final = 30.0
WINDOW_S: Final = 60.0
_MARK_EVERY_S: Final = 1.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Work:
    """What is being done.

    Attributes:
        name: in a word or two.
        unit: what is counted, in the plural.
        total: how many there are in all.
        done: how many were done before this process began.
    """

    name: str
    unit: str
    total: int
    done: int = 0


class Pace:
    """The present rate, and the time that the rest will take at it.

    Both are those of the last minute or so, so that they follow a machine that gets busier; what was done before this
    process began does not count.

    Args:
        work: how much there is, and was done.
        now_s: when it begins.
    """

    def __init__(self, work: Work, now_s: float) -> None:
        self._total = work.total
        self._marks = deque([(now_s, work.done)])
        self._last = (now_s, work.done)

    def at(self, done: int, now_s: float) -> None:
        """Take in that `done` are done."""
        self._last = (now_s, done)
        if now_s - self._marks[-1][0] >= _MARK_EVERY_S:
            self._marks.append(self._last)
        while len(self._marks) > 1 and now_s - self._marks[1][0] >= WINDOW_S:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """How many a second; NaN before anything was done."""
        (since_s, before), (now_s, done) = self._marks[0], self._last
        return (done - before) / (now_s - since_s) if done > before and now_s > since_s else math.nan

    @property
    def left_s(self) -> float:
        """Seconds to the end; NaN before anything was done."""
        return (self._total - self._last[1]) / self.rate


class Report(ABC):
    """Says how far the work is."""

    def __init__(self, work: Work, console: Console, clock: Clock) -> None:
        self._work, self._console, self._clock = work, console, clock
        self._began_s = clock()
        self._pace = Pace(work, self._began_s)

    def at(self, done: int, note: str = "") -> None:
        """`done` of the work are done; `note` is what else there is to say of it now."""
        now_s = self._clock()
        self._pace.at(done, now_s)
        self._show(done, note, f"took {duration(now_s - self._began_s)}" if done >= self._work.total else self._time())

    @abstractmethod
    def _show(self, done: int, note: str, pace: str) -> None: ...

    def _time(self) -> str:
        """The rate and the time left."""
        rate = self._pace.rate
        if math.isnan(rate):
            return ""
        return f"{_rate(rate, self._work.unit)}, {duration(self._pace.left_s)} left"


class Lines(Report):
    """For files and pipes: a line at the beginning, at the end, and every half minute between."""

    def __init__(self, work: Work, console: Console, clock: Clock) -> None:
        super().__init__(work, console, clock)
        self._said_s = -math.inf

    def _show(self, done: int, note: str, pace: str) -> None:
        now_s = self._clock()
        if now_s - self._said_s < LINE_EVERY_S and done < self._work.total:
            return
        self._said_s = now_s
        parts = [f"{self._work.name} {done}/{self._work.total}", note, pace]
        self._console.print(plain(", ".join(part for part in parts if part)))


class LiveLine(Report):
    """For terminals: a bar, redrawn in place."""

    def __init__(self, work: Work, console: Console, clock: Clock) -> None:
        super().__init__(work, console, clock)
        fields = (TextColumn(f"{{task.fields[{name}]}}") for name in ("note", "pace"))
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn()]
        self.bar = Bar(*columns, *fields, console=console, expand=True)
        self._shown = self.bar.add_task(work.name, total=work.total, completed=work.done, note="", pace="")

    def _show(self, done: int, note: str, pace: str) -> None:
        self.bar.update(self._shown, completed=done, note=note, pace=pace)


@contextmanager
def reported(work: Work, console: Console | None = None, clock: Clock = time.monotonic) -> Iterator[Report]:
    """Report on `work` for the length of the block, to standard error unless told otherwise."""
    console = console or notices()
    if console.is_interactive:
        line = LiveLine(work, console, clock)
        with line.bar:
            yield line
    else:
        yield Lines(work, console, clock)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; days where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour}:{minute:02}:{second:02}"


def _rate(rate: float, unit: str) -> str:
    """Whichever way round is read more easily."""
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{60 * rate:.1f} {unit}/min"
