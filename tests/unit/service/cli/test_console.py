"""Progress of long commands, on a terminal and elsewhere, and what commands print."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from service.cli.console import facts, job_progress, output, progress, table
from service.client import Job
from tests.unit.service.scripted_job import adapted, job


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_pipe_gets_a_line_at_once_then_every_half_minute_and_at_the_end() -> None:
    printed, clock = io.StringIO(), ManualClock()
    with progress("training", 1000, console=Console(file=printed, soft_wrap=True), clock=clock) as report:
        for step in range(1, 1001):
            clock.now_s += 0.125
            report(step, f"loss {step}")
    lines = printed.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training {n}/1000" for n in (1, 241, 481, 721, 961, 1000)]
    assert lines[1] == "training 241/1000, loss 241, 0:01:35 left"
    assert lines[-1] == "training 1000/1000, loss 1000, took 0:02:05"


def test_the_remaining_time_depends_on_the_current_speed() -> None:
    printed, clock = io.StringIO(), ManualClock()
    with progress("training", 1000, console=Console(file=printed, soft_wrap=True), clock=clock) as report:
        for second in range(1, 101):
            clock.now_s += 1
            report(4 * second, "")
        for second in range(1, 101):  # the machine is now slower
            clock.now_s += 1
            report(400 + second, "")
    assert printed.getvalue().splitlines()[-1] == "training 481/1000, 0:08:39 left"


def test_steps_of_an_earlier_process_do_not_count_as_speed() -> None:
    printed, clock = io.StringIO(), ManualClock()
    with progress("training", 5010, 5000, console=Console(file=printed, soft_wrap=True), clock=clock) as report:
        for step in (5001, 5002):
            clock.now_s += 30
            report(step, "")
    assert printed.getvalue().splitlines() == ["training 5001/5010, -:--:-- left", "training 5002/5010, 0:04:00 left"]


def test_a_terminal_gets_one_line_that_is_redrawn() -> None:
    screen, clock = io.StringIO(), ManualClock()
    console = Console(file=screen, force_terminal=True, width=80, legacy_windows=False, color_system=None)
    with progress("training", 8000, 4000, console=console, clock=clock) as report:
        for step in (4025, 4050):
            clock.now_s += 5
            report(step, "loss 0.421, saved 4000")
    line = next(line for line in reversed(screen.getvalue().splitlines()) if "training" in line)
    for part in ("4050/8000", "loss 0.421, saved 4000", "0:13:10"):
        assert part in line


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    printed = io.StringIO()
    with progress("training", 1, console=Console(file=printed, force_terminal=True), clock=ManualClock()) as report:
        report(1, "loss 1.000")
    assert printed.getvalue() == "training 1/1, loss 1.000, took 0:00:00\n"


def rendered(*jobs: Job, client: str = "line") -> list[str]:
    """Return the lines that a terminal shows."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, legacy_windows=False, color_system=None)
    with job_progress(client, console) as report:
        for state in jobs:
            report(state)
    return screen.getvalue().splitlines()


def a_job(stage: str, done: int = 0, of: int = 0, loss: float | None = None, first: int | None = None) -> Job:
    steps = {"done": done, "of": of, "loss": loss}
    return Job.model_validate(job(stage=stage, steps=steps) | {"first": None if first is None else adapted(first)})


def test_a_terminal_shows_stage_steps_and_loss_of_a_job() -> None:
    line = next(line for line in reversed(rendered(a_job("adapt", 3, 45, 0.125))) if "line" in line)
    for part in ("line: adapting", " 3/45 ", "loss 0.125"):
        assert part in line


def test_a_waiting_job_has_no_total_and_no_loss() -> None:
    line = next(line for line in reversed(rendered(a_job("waiting"))) if "line" in line)
    assert "line: waiting for its turn" in line
    assert "0/?" in line
    assert "loss" not in line


def test_the_first_version_is_printed_once() -> None:
    lines = rendered(*(a_job("adapt", done, 9, first=7) for done in range(3)))
    assert sum("version 7 created from prototypes, live" in line for line in lines) == 1


def test_the_progress_bar_leaves_space_for_the_echo_of_an_interrupt() -> None:
    widest = max(len(line) for line in rendered(a_job("adapt", 3, 45, 0.125)) if "adapting" in line)
    assert widest + len("^C") < 100


def test_client_names_are_neither_markup_nor_escape_sequences() -> None:
    assert "[b]line\\x07: adapting" in "\n".join(rendered(a_job("adapt"), client="[b]line\x07"))


def test_a_job_prints_nothing_without_a_terminal() -> None:
    printed = io.StringIO()
    with job_progress("line", Console(file=printed)) as report:
        report(a_job("adapt", 3, 45, 0.125, first=1))
    assert printed.getvalue() == ""


def test_a_narrow_terminal_wraps_cells_and_cuts_none() -> None:
    label, name = "solder bridge between two pads of the same net", "2026-03-01T12-00-00-camera-7-part-0417-top.png"
    listed = table("image", "label", "confidence", numbers=("confidence",))
    listed.add_row(name, label, "93.0 %")
    listed.add_row("1.png", "", "100.0 %")
    screen = io.StringIO()
    Console(file=screen, width=60, force_terminal=True, color_system=None).print(listed, facts([("classes", label)]))
    shown = screen.getvalue()
    assert "\u2026" not in shown
    for word in (*label.split(), "93.0 %", "100.0 %"):
        assert word in shown
    columns = listed.columns[0], listed.columns[1]
    assert all(column.overflow == "fold" for column in columns)
    assert max(map(len, shown.splitlines())) <= 60


def test_a_line_in_a_pipe_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.StringIO):
        sent = ""

        def flush(self) -> None:
            self.sent = self.getvalue()

    pipe = Pipe()
    monkeypatch.setattr("sys.stdout", pipe)
    output().print("Anole serves on http://127.0.0.1:8000  ")
    assert pipe.sent == "Anole serves on http://127.0.0.1:8000\n"
