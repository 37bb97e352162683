"""Waiting for work in other threads: deadlines, departures, and places that are free when the work is done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlinePassed, Overloaded
from service.http.dependencies import AdmissionLimit
from service.http.mailbox import Mailbox
from service.http.waiting import answered
from service.runtime.predict_batcher import PredictBatcher
from service.telemetry import Telemetry
from tests.in_process import PNG, Web

SOON_S = 0.02
LIMIT_S = 30


class Line:
    """The other side of a request: hangs up when told to."""

    def __init__(self) -> None:
        self.hung_up = asyncio.Event()
        self.request = Request({"type": "http"}, self.receive)

    async def receive(self) -> dict[str, Any]:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}


class Hanging:
    """A batcher of one thread whose work waits to be let go; keeps what it has worked on."""

    def __init__(self) -> None:
        self.go, self.begun, self.done = threading.Event(), threading.Event(), list[int]()
        self.batcher: PredictBatcher[int, int] = PredictBatcher(self._work, max_size=1, threads=1)

    def _work(self, jobs: Sequence[int]) -> Iterator[tuple[int, int | Exception]]:
        self.begun.set()
        assert self.go.wait(LIMIT_S)
        self.done += jobs
        yield from ((place, KeyError(job) if job < 0 else job) for place, job in enumerate(jobs))

    def submitted(self, room: AdmissionLimit, job: int) -> asyncio.Future[int]:
        return Mailbox().expect(room.submitted(partial(self.batcher.submit, job)))


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.go.set()
    made.batcher.close()


def room_of(places: int) -> AdmissionLimit:
    return AdmissionLimit("predict", 1, places - 1, Telemetry())


async def until(room: AdmissionLimit, taken: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while room.taken != taken:
            await asyncio.sleep(0)


def test_an_answer_in_time_comes_through_and_so_does_an_error(hanging: Hanging) -> None:
    hanging.go.set()

    async def live() -> None:
        room = room_of(1)
        assert await answered(Line().request, hanging.submitted(room, 7), LIMIT_S) == 7
        with pytest.raises(KeyError):
            await answered(Line().request, hanging.submitted(room, -1), LIMIT_S)
        assert room.taken == 0

    asyncio.run(live())


def test_an_answer_that_comes_late_still_comes(hanging: Hanging) -> None:
    async def live() -> int:
        waiting = asyncio.ensure_future(answered(Line().request, hanging.submitted(room_of(1), 7), LIMIT_S, soon_s=0))
        for _ in range(10):
            await asyncio.sleep(0)
        hanging.go.set()
        return await waiting

    assert asyncio.run(live()) == 7


def test_work_that_hangs_is_answered_for_and_holds_its_place_until_it_ends(hanging: Hanging) -> None:
    async def live() -> None:
        room = room_of(1)
        work = hanging.submitted(room, 1)
        assert hanging.begun.wait(LIMIT_S)
        with pytest.raises(DeadlinePassed, match=r"within 0\.02 s"):
            await answered(Line().request, work, SOON_S, soon_s=0)
        assert room.taken == 1
        with pytest.raises(Overloaded):
            hanging.submitted(room, 2)
        hanging.go.set()
        await until(room, 0)
        assert await answered(Line().request, hanging.submitted(room, 3), LIMIT_S) == 3

    asyncio.run(live())


def test_work_that_waits_in_line_leaves_it_at_its_deadline_and_is_not_done(hanging: Hanging) -> None:
    async def live() -> None:
        room = room_of(4)
        first = hanging.submitted(room, 0)
        assert hanging.begun.wait(LIMIT_S)
        for job in (1, 2, 3):
            with pytest.raises(DeadlinePassed):
                await answered(Line().request, hanging.submitted(room, job), SOON_S, soon_s=0)
        await until(room, 1)
        assert hanging.batcher.metrics()["predict_waiting"] == 0
        hanging.go.set()
        assert await answered(Line().request, first, LIMIT_S) == 0

    asyncio.run(live())
    assert hanging.done == [0]


def test_who_hangs_up_gives_the_place_back_and_the_work_is_not_done(hanging: Hanging) -> None:
    async def live() -> None:
        room, line = room_of(2), Line()
        first = hanging.submitted(room, 0)
        assert hanging.begun.wait(LIMIT_S)
        line.hung_up.set()
        with pytest.raises(ClientDisconnect):
            await answered(line.request, hanging.submitted(room, 1), LIMIT_S, soon_s=0)
        await until(room, 1)
        hanging.go.set()
        assert await answered(Line().request, first, LIMIT_S) == 0

    asyncio.run(live())
    assert hanging.done == [0]


def test_a_service_that_stops_is_not_taken_for_a_client_that_left() -> None:
    async def live() -> None:
        never: Future[int] = Future()
        task = asyncio.ensure_future(answered(Line().request, Mailbox().expect(never), LIMIT_S, soon_s=0))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert never.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(live())


def test_work_that_cannot_be_submitted_takes_no_place() -> None:
    def refuse() -> Future[int]:
        raise KeyError("x")

    room = room_of(1)
    for _ in range(3):
        with pytest.raises(KeyError):
            room.submitted(refuse)
    assert room.taken == 0


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
