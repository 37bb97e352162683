"""A room: so many run, so many wait in line, one more is refused."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import anyio
import pytest

from service.api.deps import Room
from service.errors import Overloaded
from service.telemetry import Telemetry


def test_waiting_calls_run_when_a_place_is_free_and_never_more_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()
    both, go_on = threading.Barrier(2), threading.Event()

    def work(result: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if result < 2:
            both.wait(30)
        assert go_on.wait(30)
        with lock:
            running -= 1
        return result

    async def live() -> list[int]:
        room, results = Room("adapt", running=2, waiting=3, telemetry=Telemetry()), []

        async def one(number: int) -> None:
            results.append(await room.run(partial(work, number)))

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(one, number)
            while room.taken < 5:
                await anyio.sleep(0)
            with pytest.raises(Overloaded, match="5 of 5 places to adapt"):
                await room.run(partial(work, 9))
            go_on.set()
        assert room.taken == 0
        return results

    assert sorted(anyio.run(live)) == [0, 1, 2, 3, 4]
    assert most == 2


def test_a_call_that_fails_gives_its_place_back() -> None:
    def fail() -> None:
        raise KeyError("x")

    async def live() -> int:
        room = Room("predict", running=1, waiting=0, telemetry=Telemetry())
        for _ in range(3):
            with pytest.raises(KeyError):
                await room.run(fail)
        return room.taken

    assert anyio.run(live) == 0


def test_work_takes_as_many_places_as_it_is_large_and_the_largest_comes_in_alone() -> None:
    room, works = Room("predict", running=4, waiting=4, telemetry=Telemetry()), [Future[int]() for _ in range(4)]
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
