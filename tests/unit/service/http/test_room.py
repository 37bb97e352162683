"""A room: so many run, so many wait in line, one more is refused."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial

import pytest

from service.errors import Overloaded
from service.http.dependencies import AdmissionLimit
from service.telemetry import Telemetry


def _same(work: Future[int]) -> Future[int]:
    return work


def test_so_many_are_in_work_or_wait_and_one_more_is_refused() -> None:
    room, works = (
        AdmissionLimit("adapt", running=2, waiting=3, telemetry=Telemetry()),
        [Future[int]() for _ in range(6)],
    )
    for work in works[:5]:
        room.refuse_when_full()
        room.submitted(partial(_same, work))
    with pytest.raises(Overloaded, match="5 of 5 places to adapt"):
        room.refuse_when_full()
    with pytest.raises(Overloaded):
        room.submitted(lambda: works[5])
    works[3].cancel()
    room.refuse_when_full()
    assert room.submitted(lambda: works[5]) is works[5]


def test_work_takes_as_many_places_as_it_is_large_and_the_largest_comes_in_alone() -> None:
    room, works = (
        AdmissionLimit("predict", running=4, waiting=4, telemetry=Telemetry()),
        [Future[int]() for _ in range(4)],
    )
    room.submitted(lambda: works[0], 3)
    room.submitted(lambda: works[1], 5)
    assert room.taken == 8
    with pytest.raises(Overloaded):
        room.submitted(lambda: works[2], 1)
    works[0].set_result(1)
    with pytest.raises(Overloaded):
        room.submitted(lambda: works[2], 4)
    works[1].cancel()
    room.submitted(lambda: works[2], 100)
    with pytest.raises(Overloaded):
        room.submitted(lambda: works[3], 1)
    works[2].set_exception(KeyError("x"))
    assert room.taken == 0
