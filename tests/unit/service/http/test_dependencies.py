"""Waiting for work in other threads: time limits, disconnects, and slots that are free when the work has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlinePassed, Overloaded
from service.http.dependencies import wait_for
from service.http.middleware.admission import AdmissionLimit
from service.runtime.predict_batcher import PredictBatcher
from service.telemetry import Telemetry
from tests.in_process import PNG, Web

SHORT_S = 0.02
LIMIT_S = 30


class Connection:
    """A client that disconnects when the test sets `disconnected`."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()
        self.request = Request({"type": "http"}, self.receive)

    async def receive(self) -> dict[str, Any]:
        await self.disconnected.wait()
        return {"type": "http.disconnect"}


class Blocked:
    """A batcher with one thread. Its work waits until the test releases it, and is recorded."""

    def __init__(self) -> None:
        self.go_on, self.begun, self.done = threading.Event(), threading.Event(), list[int]()
        self.batcher: PredictBatcher[int, int] = PredictBatcher(self._work, max_size=1, threads=1)

    def _work(self, jobs: Sequence[int]) -> Iterator[tuple[int, int | Exception]]:
        self.begun.set()
        assert self.go_on.wait(LIMIT_S)
        self.done += jobs
        yield from ((index, KeyError(job) if job < 0 else job) for index, job in enumerate(jobs))

    def submit(self, limit: AdmissionLimit, job: int) -> Future[int]:
        slot = limit.admit()
        work = self.batcher.submit(job)
        slot.hold_until_done(work)
        slot.end_request()
        return work


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    made = Blocked()
    yield made
    made.go_on.set()
    made.batcher.close()


def limit_of(requests: int) -> AdmissionLimit:
    return AdmissionLimit("predict", Telemetry(), requests)


async def until(limit: AdmissionLimit, requests: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while limit.requests != requests:
            await asyncio.sleep(0)


def test_results_and_errors_are_passed_on(blocked: Blocked) -> None:
    blocked.go_on.set()

    async def run() -> None:
        limit = limit_of(1)
        assert await wait_for(Connection().request, blocked.submit(limit, 7), LIMIT_S) == 7
        await until(limit, 0)
        with pytest.raises(KeyError):
            await wait_for(Connection().request, blocked.submit(limit, -1), LIMIT_S)
        await until(limit, 0)

    asyncio.run(run())


def test_a_late_result_is_passed_on(blocked: Blocked) -> None:
    async def run() -> int:
        work = blocked.submit(limit_of(1), 7)
        waiting = asyncio.ensure_future(wait_for(Connection().request, work, LIMIT_S, watch_after_s=0))
        for _ in range(10):
            await asyncio.sleep(0)
        blocked.go_on.set()
        return await waiting

    assert asyncio.run(run()) == 7


def test_a_request_whose_work_hangs_times_out_and_keeps_its_slot_until_the_work_ends(blocked: Blocked) -> None:
    async def run() -> None:
        limit = limit_of(1)
        work = blocked.submit(limit, 1)
        assert blocked.begun.wait(LIMIT_S)
        with pytest.raises(DeadlinePassed, match=r"within 0\.02 s"):
            await wait_for(Connection().request, work, SHORT_S, watch_after_s=0)
        assert limit.requests == 1
        with pytest.raises(Overloaded):
            blocked.submit(limit, 2)
        blocked.go_on.set()
        await until(limit, 0)
        assert await wait_for(Connection().request, blocked.submit(limit, 3), LIMIT_S) == 3

    asyncio.run(run())


def test_work_that_has_not_begun_at_its_time_limit_is_cancelled(blocked: Blocked) -> None:
    async def run() -> None:
        limit = limit_of(4)
        first = blocked.submit(limit, 0)
        assert blocked.begun.wait(LIMIT_S)
        for job in (1, 2, 3):
            with pytest.raises(DeadlinePassed):
                await wait_for(Connection().request, blocked.submit(limit, job), SHORT_S, watch_after_s=0)
        await until(limit, 1)
        assert blocked.batcher.metrics()["predict_waiting"] == 0
        blocked.go_on.set()
        assert await wait_for(Connection().request, first, LIMIT_S) == 0

    asyncio.run(run())
    assert blocked.done == [0]


def test_a_disconnect_cancels_the_work_and_frees_the_slot(blocked: Blocked) -> None:
    async def run() -> None:
        limit, connection = limit_of(2), Connection()
        first = blocked.submit(limit, 0)
        assert blocked.begun.wait(LIMIT_S)
        connection.disconnected.set()
        with pytest.raises(ClientDisconnect):
            await wait_for(connection.request, blocked.submit(limit, 1), LIMIT_S, watch_after_s=0)
        await until(limit, 1)
        blocked.go_on.set()
        assert await wait_for(Connection().request, first, LIMIT_S) == 0

    asyncio.run(run())
    assert blocked.done == [0]


def test_a_stopping_service_is_not_reported_as_a_disconnect() -> None:
    async def run() -> None:
        never: Future[int] = Future()
        task = asyncio.ensure_future(wait_for(Connection().request, never, LIMIT_S, watch_after_s=0))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(3):
            await asyncio.sleep(0)
        assert never.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_prediction_that_hangs_gets_503_and_others_are_served(two_versions: Web) -> None:
    release = threading.Event()
    run = two_versions.services.prediction.run

    def hang(*args: object) -> object:
        release.wait(30)
        return run(*args)

    two_versions.services.prediction.run = hang
    send = {"data": {"client": "line"}, "files": [("images", ("a.png", PNG))]}
    response = two_versions("POST", "/predict", **send)
    assert (response.status_code, response.json()["code"]) == (503, "deadline_passed")
    assert int(response.headers["retry-after"]) > 0
    two_versions.services.prediction.run = run
    release.set()
    assert two_versions("POST", "/predict", **send).status_code == 200
