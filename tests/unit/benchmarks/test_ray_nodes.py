"""How long a lost node is felt, from the times of good answers."""

from __future__ import annotations

import pytest

from benchmarks.ray_nodes import Answer, Load, longest_pause_s, low_s, rate_back_s

BEFORE = [0.1 * tick for tick in range(100)]  # ten a second until the fault, at 10 s


def test_the_longest_pause_includes_those_at_the_fault_and_at_the_end() -> None:
    assert longest_pause_s([*BEFORE, 14.0, 15.0], 10, 16) == pytest.approx(4)
    assert longest_pause_s([*BEFORE, 11.0, 12.0], 10, 20) == pytest.approx(8)


def test_the_rate_is_back_when_no_later_window_has_less_than_half_of_it() -> None:
    after = [17 + 0.1 * tick for tick in range(130)]
    assert rate_back_s([*BEFORE, *after], 10, 30, 10) == pytest.approx(8, abs=1)
    assert rate_back_s([*BEFORE, *(10 + 0.1 * tick for tick in range(200))], 10, 30, 10) == 0
    assert rate_back_s([*BEFORE, *after[:50]], 10, 30, 10) is None
    assert low_s([*BEFORE, *after], 10, 30, 10) == 7


def test_errors_are_counted_by_kind_and_status() -> None:
    answers = [Answer(1, 0.1, status) for status in ("200", "503", "no answer", "503")]
    load = Load(predictions=answers, adaptations=[Answer(1, 0.1, "201"), Answer(2, 0.1, "503")])
    assert load.errors() == "adaptation 503: 1, prediction 503: 2, prediction no answer: 1"
