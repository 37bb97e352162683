"""What `anole adapt` shows while the service works."""

from __future__ import annotations

import io

from rich.console import Console

from service.cli.job_progress import followed
from service.client.calls import read_adapted
from service.client.types import AdaptProgress
from tests.unit.service.scripted_job import adapted


def drawn(*told: AdaptProgress, client: str = "line") -> list[str]:
    """Every line that a terminal got."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, legacy_windows=False, color_system=None)
    with followed(client, console) as tell:
        for progress in told:
            tell(progress)
    return screen.getvalue().splitlines()


def test_a_terminal_shows_stage_steps_and_loss() -> None:
    line = next(line for line in reversed(drawn(AdaptProgress("adapt", 3, 45, 0.125, None))) if "line" in line)
    for part in ("line adapts", " 3/45 ", "loss 0.125"):
        assert part in line


def test_before_the_steps_are_known_none_is_shown_and_no_loss() -> None:
    line = next(line for line in reversed(drawn(AdaptProgress("waiting", 0, 0, None, None))) if "line" in line)
    assert "line waits for its turn" in line
    assert "0/?" in line
    assert "loss" not in line


def test_a_version_by_prototypes_is_said_once_and_stays() -> None:
    first = read_adapted(adapted(7))
    lines = drawn(*(AdaptProgress("adapt", done, 9, None, first) for done in range(3)))
    assert sum("version 7 by prototypes alone is made, live" in line for line in lines) == 1


def test_the_bar_leaves_room_for_what_a_terminal_echoes() -> None:
    widest = max(len(line) for line in drawn(AdaptProgress("adapt", 3, 45, 0.125, None)) if "adapts" in line)
    assert widest + len("^C") < 100


def test_names_and_stages_from_outside_are_neither_markup_nor_escapes() -> None:
    shown = "\n".join(drawn(AdaptProgress("[red]\x07", 0, 0, None, None), client="[b]line"))
    assert "[b]line [red]\\x07" in shown


def test_elsewhere_nothing_is_shown() -> None:
    said = io.StringIO()
    with followed("line", Console(file=said)) as tell:
        tell(AdaptProgress("adapt", 3, 45, 0.125, read_adapted(adapted())))
    assert said.getvalue() == ""
