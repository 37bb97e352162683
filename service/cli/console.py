"""What commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from service.client import Job
from service.client.jobs import OnProgress

NO_VALUE: Final = "-"
FAILED: Final = 1
HELD: Final = 3
EXIT_CODES: Final = (
    "Exit codes: 0 success; 1 failure, with a message on standard error; 2 wrong usage; 3 the gate kept a new version "
    "from going live; 130 interrupted."
)
LINE_EVERY_S: Final = 30.0
_PIPE_WIDTH: Final = 100_000

_STAGES: Final[Mapping[str, str]] = {
    "waiting": "waiting for its turn",
    "decode": "reading the images",
    "adapt": "adapting",
    "examine": "validating the version",
    "store": "recording the version",
}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class _PipedConsole(Console):
    """A console whose lines end with their last letter. Rich fills the last column of a table with spaces."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print without spaces at the ends of lines."""
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
        self.file.flush()


def output() -> Console:
    """Return the console for results. In a pipe, a line is as long as its content, so that names stay whole."""
    if sys.stdout.isatty():
        return Console(highlight=False, soft_wrap=True)
    return _PipedConsole(highlight=False, soft_wrap=True, width=_PIPE_WIDTH)


def notices() -> Console:
    """Return the console for progress and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print data as JSON on standard output. Values that JSON does not have are printed as text."""
    typer.echo(json.dumps(data, indent=2, default=str))


def plain(text: str) -> Text:
    """Return text from outside so that it is never read as markup, with control characters escaped."""
    return Text("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def table(*headings: str, numbers: Collection[str] = ()) -> Table:
    """Return an empty table whose cells are wrapped where a terminal is too narrow, never cut.

    Args:
        headings: headings of the columns.
        numbers: those of them whose cells are aligned to the right.
    """
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold", justify="right" if heading in numbers else "left")
    return made


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values. Values may come from outside."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, plain(value))
    return made


def percent(share: float | None) -> str:
    """Format a share as a percentage, or as a dash if it is unknown."""
    return NO_VALUE if share is None else f"{100 * share:.1f} %"


def minute(moment: datetime) -> str:
    """Format a moment in UTC, without seconds."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def second(moment: datetime) -> str:
    """Format a moment in UTC, with seconds."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


@contextmanager
def progress(
    name: str, total: int, done: int = 0, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, str], None]]:
    """Report the progress of a long command: a bar on a terminal, a line every half minute anywhere else.

    Yields a function to call with the number of units done and a note.

    Args:
        name: what is being done, in a word or two.
        total: number of units.
        done: number of units that an earlier process did.
        console: default: standard error.
        clock: monotonic seconds.
    """
    console = console or notices()
    live = console.is_interactive
    count = TextColumn("{task.description} {task.completed:.0f}/{task.total:.0f}", markup=False)
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (count, BarColumn(bar_width=None), TextColumn("{task.fields[note]}", markup=False), remaining)
    bar = Progress(*columns, console=console, expand=True, disable=not live, get_time=clock, speed_estimate_period=60)
    bar.add_task(name, total=total, completed=done, note="")
    (task,) = bar.tasks
    next_line_s = clock()

    def report(completed: int, note: str) -> None:
        nonlocal next_line_s
        bar.update(task.id, completed=completed, note=note)
        if not live and (completed >= total or clock() >= next_line_s):
            next_line_s = clock() + LINE_EVERY_S
            time_text = remaining.render(task).plain
            parts = (count.render(task).plain, note, f"took {time_text}" if task.finished else f"{time_text} left")
            console.print(plain(", ".join(filter(None, parts))))

    with bar:
        yield report


@contextmanager
def job_progress(client: str, console: Console | None = None) -> Iterator[OnProgress]:
    """Report the progress of an adaptation: a bar on a terminal, nothing anywhere else.

    Yields a function to call with the job.
    """
    console = console or notices()
    if not console.is_interactive:
        yield lambda _: None
        return
    # a bar as wide as the terminal leaves no room for the ^C that a terminal echoes, and stays behind when interrupted
    text, loss = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[loss]"))
    columns = (SpinnerColumn(), text, BarColumn(bar_width=30), MofNCompleteColumn(), loss, TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True)
    task_id = bar.add_task(plain(f"{client}: sending the images").plain, total=None, loss="")
    first_version: int | None = None

    def report(job: Job) -> None:
        nonlocal first_version
        bar.update(
            task_id,
            description=plain(f"{client}: {_STAGES[job.stage]}").plain,
            completed=job.steps.done,
            total=job.steps.of or None,
            loss="" if job.steps.loss is None else f"loss {job.steps.loss:.3f}",
        )
        if job.first is not None and first_version is None:
            first_version = job.first.version
            console.print(
                f"version {first_version} created from prototypes, {'live' if job.first.published else 'not live'}"
            )

    with bar:
        yield report
