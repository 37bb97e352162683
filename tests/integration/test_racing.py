"""Racing publishes, checked for linearizability; and tests of that check."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.store.open_store import StoreLocation, open_store
from tests.integration.racing import Operation, contradictions, log_contradictions, race
from tests.real_parts import ObjectServer


@pytest.mark.parametrize("form", ["embedded", "shared"])
def test_racing_publishes_are_linearizable(form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = StoreLocation(tmp_path)
    if form == "shared":
        objects: ObjectServer = request.getfixturevalue("objects")
        place = StoreLocation(tmp_path, request.getfixturevalue("empty_catalog"), objects.url(objects.new_bucket()))
    done = race(place, processes=2, threads=8, publishes=48)
    assert contradictions(done.operations) == []
    with open_store(place) as store:
        assert log_contradictions(store, 48) == []
        assert store.check().whole


def publish(number: int, began: int, ended: int) -> Operation:
    return Operation("publish", number, began, ended)


def read(number: int, began: int, ended: int) -> Operation:
    return Operation("read", number, began, ended)


def test_overlapping_operations_may_take_effect_in_any_order() -> None:
    assert contradictions([publish(2, 0, 9), publish(1, 1, 8), read(0, 0, 2), read(2, 3, 4), read(1, 3, 4)]) == []


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([publish(1, 0, 1), publish(3, 2, 3)], "gaps"),
        ([publish(1, 0, 1), publish(1, 2, 3)], "repeated"),
        ([publish(2, 0, 1), publish(1, 2, 3)], "a publish of 1 began after the publish of 2 had ended"),
        ([publish(1, 0, 1), publish(2, 2, 3), read(1, 4, 5)], "a read of 1 began after the publish of 2 had ended"),
        ([publish(1, 4, 5), read(1, 0, 1)], "a read returned 1, whose publish had not begun"),
    ],
)
def test_a_history_that_is_not_linearizable_is_detected(history: list[Operation], problem: str) -> None:
    assert any(problem in line for line in contradictions(history))
