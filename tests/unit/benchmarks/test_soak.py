"""The soak in its short form, on a real process, and what it calls flat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.running_service import ServiceOptions
from benchmarks.soak import Reading, flat, growth, soak, table
from tests.generated import tiny_checkpoint_in

STEADY = Reading(60, 100, 300.0, 40, 20)


@pytest.mark.slow
def test_a_short_soak_does_not_leak_descriptors_or_threads(tmp_path: Path) -> None:
    readings = soak(ServiceOptions(str(tiny_checkpoint_in(tmp_path))), seconds=4, count=6)
    assert flat(readings)
    assert [one.requests for one in readings] == sorted({one.requests for one in readings})
    assert table(readings).count("\n") == 1 + len(readings)


@pytest.mark.parametrize(
    "grown", [replace(STEADY, memory_mib=320.0), replace(STEADY, descriptors=60), replace(STEADY, threads=60)]
)
def test_growth_is_not_flat(grown: Reading) -> None:
    assert flat([STEADY] * 6)
    assert not flat([STEADY] * 4 + [grown] * 2)


def test_growth_compares_the_last_third_with_the_one_before() -> None:
    warm = replace(STEADY, memory_mib=100.0)
    assert growth([warm] * 2 + [STEADY] * 4) == (0.0, 0.0, 0.0)
    assert growth([STEADY] * 4 + [replace(STEADY, memory_mib=301.5, threads=19)] * 2) == (1.5, 0.0, -1.0)
