"""A short soak of a real process, and the criterion for constant usage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.running_service import ServiceOptions
from benchmarks.soak import Reading, growth, is_constant, soak, table
from tests.generated import tiny_checkpoint_in

STEADY = Reading(60, 100, 300.0, 40, 20)


@pytest.mark.slow
def test_a_short_soak_does_not_leak_descriptors_or_threads(tmp_path: Path) -> None:
    readings = soak(ServiceOptions(str(tiny_checkpoint_in(tmp_path))), seconds=4, count=6)
    assert is_constant(readings)
    assert [reading.requests for reading in readings] == sorted({reading.requests for reading in readings})
    assert table(readings).count("\n") == 1 + len(readings)


@pytest.mark.parametrize(
    "grown", [replace(STEADY, memory_mib=320.0), replace(STEADY, descriptors=60), replace(STEADY, threads=60)]
)
def test_growth_is_detected(grown: Reading) -> None:
    assert is_constant([STEADY] * 6)
    assert not is_constant([STEADY] * 4 + [grown] * 2)


def test_growth_compares_the_last_third_with_the_middle_third() -> None:
    warm = replace(STEADY, memory_mib=100.0)
    assert growth([warm] * 2 + [STEADY] * 4) == (0.0, 0.0, 0.0)
    assert growth([STEADY] * 4 + [replace(STEADY, memory_mib=301.5, threads=19)] * 2) == (1.5, 0.0, -1.0)
