"""A deadline over a room: the answer comes in time, the place is free when the work is done and not before."""

from __future__ import annotations

import threading

import anyio
import pytest

from service.api.deadline import within
from service.api.deps import Room
from service.errors import DeadlinePassed, Overloaded
from service.telemetry import Telemetry
from tests.in_process import PNG, Web

SOON_S = 0.05


def room_of(running: int, waiting: int) -> Room:
    return Room("predict", running, waiting, Telemetry())


def test_work_in_time_gives_its_answer_or_its_error() -> None:
    def fail() -> None:
        raise KeyError("x")

    async def live() -> str:
        room = room_of(1, 0)
        with pytest.raises(KeyError):
            await within(30, room.run(fail))
        return await within(30, room.run(lambda: "answer"))

    assert anyio.run(live) == "answer"


def test_work_that_hangs_is_answered_for_and_holds_its_place_until_it_ends() -> None:
    release = threading.Event()

    async def live() -> None:
        room = room_of(1, 0)
        with pytest.raises(DeadlinePassed):
            await within(SOON_S, room.run(lambda: release.wait(30)))
        assert room.taken == 1
        with pytest.raises(Overloaded):
            await within(SOON_S, room.run(lambda: True))
        release.set()
        with anyio.fail_after(30):
            while room.taken:
                await anyio.sleep(0)
        assert await within(30, room.run(lambda: True))

    anyio.run(live)


def test_work_that_waits_in_line_leaves_it_at_its_deadline_and_is_not_done() -> None:
    release, done = threading.Event(), []

    async def live() -> None:
        room = room_of(1, 3)
        with pytest.raises(DeadlinePassed):
            await within(SOON_S, room.run(lambda: release.wait(30)))
        for number in range(3):
            with pytest.raises(DeadlinePassed):
                await within(SOON_S, room.run(lambda number=number: done.append(number)))  # type: ignore[misc]
        with anyio.fail_after(30):
            while room.taken > 1:
                await anyio.sleep(0)
        release.set()
        assert await within(30, room.run(lambda: True))

    anyio.run(live)
    assert done == []


def test_a_prediction_that_hangs_is_answered_with_503_and_the_others_with_theirs(two_versions: Web) -> None:
    release = threading.Event()
    judge = two_versions.services.prediction.run

    def hang(*given: object) -> object:
        release.wait(30)
        return judge(*given)

    two_versions.services.prediction.run = hang
    send = {"data": {"client": "line"}, "files": [("images", ("a.png", PNG))]}
    answer = two_versions("POST", "/predict", **send)
    assert (answer.status_code, answer.json()["code"]) == (503, "deadline_passed")
    assert int(answer.headers["retry-after"]) > 0
    two_versions.services.prediction.run = judge
    release.set()
    assert two_versions("POST", "/predict", **send).status_code == 200
