"""How far an adaptation is: a bar on a terminal, redrawn in place and gone at the end; anywhere else nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from service.cli.console import notices, plain
from service.client.jobs import Told
from service.client.types import Adapted, AdaptProgress

_DOING: Final[Mapping[str, str]] = {
    "waiting": "waits for its turn",
    "decode": "reads the images",
    "adapt": "adapts",
    "examine": "examines the version",
    "store": "records the version",
}


@contextmanager
def followed(client: str, console: Console | None = None) -> Iterator[Told]:
    """What to call with how far the adaptation of `client` is, for the length of the block."""
    console = console or notices()
    if not console.is_interactive:
        yield lambda _: None
        return
    # a bar as wide as the terminal leaves no room for the ^C that a terminal echoes, and stays behind when interrupted
    columns = (SpinnerColumn(), _text("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    bar = Progress(*columns, _text("{task.fields[loss]}"), TimeElapsedColumn(), console=console, transient=True)
    with bar:
        yield _Shown(bar, client).at


class _Shown:
    def __init__(self, bar: Progress, client: str) -> None:
        self._bar, self._client = bar, client
        self._first: Adapted | None = None
        self._line = bar.add_task(self._doing("sends the images"), total=None, loss="")

    def at(self, progress: AdaptProgress) -> None:
        self._bar.update(
            self._line,
            description=self._doing(_DOING.get(progress.stage, progress.stage)),
            completed=progress.steps_done,
            total=progress.steps or None,
            loss="" if progress.loss is None else f"loss {progress.loss:.3f}",
        )
        if progress.first is not None and self._first is None:
            self._first = progress.first
            live = "live" if self._first.published else "not live"
            self._bar.console.print(plain(f"version {self._first.version} by prototypes alone is made, {live}"))

    def _doing(self, what: str) -> str:
        return plain(f"{self._client} {what}").plain


def _text(field: str) -> TextColumn:
    return TextColumn(field, markup=False)
