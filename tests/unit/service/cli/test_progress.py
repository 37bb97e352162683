"""Progress of long commands: the present rate, the time left, and what a file or a pipe is told."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from service.cli.progress import LINE_EVERY_S, Pace, Work, duration, reported


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_rate_is_the_present_one_and_the_time_left_goes_by_it() -> None:
    pace = Pace(Work("training", "steps", total=1000), now_s=0.0)
    for second in range(1, 101):
        pace.at(4 * second, float(second))
    assert pace.rate == pytest.approx(4)
    for second in range(101, 201):
        pace.at(400 + second - 100, float(second))  # the machine got busier
    assert pace.rate == pytest.approx(1)
    assert pace.left_s == pytest.approx(500)


def test_steps_of_an_earlier_process_do_not_count_towards_the_rate() -> None:
    pace = Pace(Work("training", "steps", total=5010, done=5000), now_s=0.0)
    assert math.isnan(pace.rate)
    pace.at(5001, 2.0)
    assert pace.rate == pytest.approx(0.5)
    assert pace.left_s == pytest.approx(18)


def test_a_pipe_gets_a_line_at_first_then_every_half_minute_and_at_the_end() -> None:
    said, clock = io.StringIO(), Hand()
    with reported(Work("training", "steps", total=1000), Console(file=said, soft_wrap=True), clock) as report:
        for step in range(1, 1001):
            clock.now_s += 0.125
            report.at(step, f"loss {step}")
    lines = said.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training {step}/1000" for step in (1, 241, 481, 721, 961, 1000)]
    assert lines[1] == "training 241/1000, loss 241, 8.0 steps/s, 0:01:35 left"
    assert lines[-1] == "training 1000/1000, loss 1000, took 0:02:05"
    assert LINE_EVERY_S == 30


def test_a_slow_training_says_steps_a_minute() -> None:
    said, clock = io.StringIO(), Hand()
    with reported(Work("training", "steps", total=3), Console(file=said), clock) as report:
        clock.now_s += 40
        report.at(1)
    assert said.getvalue() == "training 1/3, 1.5 steps/min, 0:01:20 left\n"


def test_a_terminal_gets_one_line_with_rate_and_time_left() -> None:
    screen, clock = io.StringIO(), Hand()
    console = Console(file=screen, force_terminal=True, width=80, legacy_windows=False)
    with reported(Work("training", "steps", total=8000, done=4000), console, clock) as report:
        clock.now_s += 10
        report.at(4050, "loss 0.421, saved 4000")
    drawn = next(line for line in reversed(screen.getvalue().splitlines()) if "training" in line)
    for part in ("4050/8000", "loss 0.421, saved 4000", "5.0 steps/s, 0:13:10 left"):
        assert part in drawn


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    said = io.StringIO()
    with reported(Work("training", "steps", total=1), Console(file=said, force_terminal=True), Hand()) as report:
        report.at(1, "loss 1.000")
    assert said.getvalue() == "training 1/1, loss 1.000, took 0:00:00\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (180000, "2 d 2:00:00")]
)
def test_a_duration_is_hours_minutes_and_seconds(seconds: float, said: str) -> None:
    assert duration(seconds) == said
