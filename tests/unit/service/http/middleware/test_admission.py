"""Admission: a request takes a slot before its body is read and keeps it until its work has ended."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest
import structlog

from service.errors import Overloaded
from service.http.app import MAX_IMAGES, create_app
from service.http.middleware.admission import AdmissionLimit, MemoryBudget
from service.settings import Settings, load_settings
from service.telemetry import Telemetry
from tests.in_process import PNG, Web, started
from tests.unit.service.fakes import FakePrediction, FakeServices

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
SEND: dict[str, Any] = {"data": {"client": "line"}, "files": [("images", ("a.png", PNG))]}
LIMIT_S = 30


def test_requests_beyond_the_limit_are_rejected_until_one_has_ended() -> None:
    limit = AdmissionLimit("adapt", Telemetry(), requests=2)
    first, _ = limit.admit(), limit.admit()
    with pytest.raises(Overloaded, match="too many requests to adapt"):
        limit.admit()
    first.end_request()
    limit.admit()
    assert limit.requests == 2


def test_a_slot_is_kept_until_its_work_has_ended_or_was_cancelled() -> None:
    limit, works = AdmissionLimit("adapt", Telemetry(), requests=2), [Future[int](), Future[int]()]
    for work in works:
        slot = limit.admit()
        slot.hold_until_done(work)
        slot.end_request()
    assert limit.requests == 2
    works[0].set_exception(KeyError("x"))
    assert limit.requests == 1
    works[1].cancel()
    assert limit.requests == 0


def test_images_are_counted_and_the_largest_request_is_admitted_alone() -> None:
    limit = AdmissionLimit("predict", Telemetry(), requests=10, images=8)
    slots = [limit.admit() for _ in range(4)]
    slots[0].add_images(3)
    slots[1].add_images(5)
    with pytest.raises(Overloaded):
        limit.admit()
    slots[0].end_request()
    with pytest.raises(Overloaded):
        slots[2].add_images(4)
    slots[1].end_request()
    slots[2].add_images(100)
    with pytest.raises(Overloaded):
        slots[3].add_images(1)
    slots[2].end_request()
    slots[3].end_request()
    assert (limit.requests, limit.images) == (0, 0)


def test_a_caller_is_admitted_up_to_an_equal_share_when_another_has_taken_all_places() -> None:
    limit = AdmissionLimit("adapt", Telemetry(), requests=4)
    for _ in range(4):
        limit.admit("flood")
    for _ in range(2):
        limit.admit("other")
    for caller in ("flood", "other"):
        with pytest.raises(Overloaded):
            limit.admit(caller)
    limit.admit("third")


def test_the_images_of_a_caller_are_admitted_beside_those_of_another_that_has_taken_all_places() -> None:
    limit = AdmissionLimit("predict", Telemetry(), requests=64, images=64)
    flood = [limit.admit("flood") for _ in range(4)]
    flood[0].add_images(64)
    with pytest.raises(Overloaded):
        flood[1].add_images(64)
    single, batch = limit.admit("single"), limit.admit("batch")
    single.add_images(1)
    batch.add_images(64)
    with pytest.raises(Overloaded):
        limit.admit("flood")
    limit.admit("single").add_images(20)
    for slot in (*flood, single, batch):
        slot.end_request()
    assert limit.images == 20


def test_memory_is_shared_so_that_something_is_left_for_another_caller() -> None:
    budget = MemoryBudget(100)
    assert [budget.take("a", 20) for _ in range(4)] == [True, True, True, False]
    assert budget.take("b", 30)
    assert not budget.take("a", 1)
    assert not budget.take("c", 31)
    assert budget.take("c", 10)
    for caller, count in [("a", 60), ("b", 30), ("c", 10)]:
        budget.give_back(caller, count)
    assert budget.take("a", 100)
    assert budget.used_bytes == 100


def test_a_body_of_unknown_size_gives_back_what_it_did_not_need_when_it_has_arrived() -> None:
    memory = MemoryBudget(100)
    slot = AdmissionLimit("predict", Telemetry(), 9, memory=memory).admit("a")
    slot.take_memory(50)
    slot.give_back_memory_beyond(20)
    assert memory.used_bytes == 20
    slot.end_request()
    assert memory.used_bytes == 0


def test_a_request_takes_memory_for_its_body_and_gives_it_back() -> None:
    memory = MemoryBudget(100)
    limit = AdmissionLimit("adapt", Telemetry(), requests=9, memory=memory)
    slot, work = limit.admit("a"), Future[int]()
    slot.take_memory(30)
    slot.take_memory(20)
    slot.hold_until_done(work)
    slot.end_request()
    with pytest.raises(Overloaded, match=r"51 bytes.*take 50 of 100 bytes of memory"):
        limit.admit("b").take_memory(51)
    work.set_result(0)
    assert memory.used_bytes == 0


@pytest.fixture
def busy(web: Web) -> Iterator[Web]:
    """Start a service that already runs as many adaptations as it admits. They end with the test."""
    release, running = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        running.release()
        release.wait(timeout=LIMIT_S)

    web.services.adaptation.before = hold
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(web.adapt) for _ in range(3)]
        for _ in waiting:
            assert running.acquire(timeout=LIMIT_S)
        yield web
        release.set()
        assert all(request.result().status_code == 201 for request in waiting)


def test_one_adaptation_beyond_the_limit_is_rejected(busy: Web) -> None:
    response = busy.adapt()
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert int(response.headers["retry-after"]) > 0
    assert 'anole_refused_total{work="adapt"} 1.0' in busy("GET", "/metrics").text


def test_other_requests_are_served_while_no_adaptation_is_admitted(busy: Web) -> None:
    assert busy("GET", "/clients").status_code == 200
    assert busy("GET", "/livez").status_code == 200
    assert busy("POST", "/predict", data={"client": "a"}, files=[("images", ("a", PNG))]).status_code == 404
    assert "anole_adapt_taken 3.0" in busy("GET", "/metrics").text


def test_a_body_that_is_still_being_read_takes_a_slot(services: FakeServices) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        yield b"--x\r\n"
        while not go_on.is_set():
            await anyio.sleep(0)
        yield b'Content-Disposition: form-data; name="client"\r\n\r\nline\r\n--x--\r\n'

    settings = load_settings(adapt_running=1, adapt_waiting=0)
    with started(create_app(settings, lambda _: services), services) as web, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(web, "POST", "/adapt", content=slow(), headers=FORM)
        assert begun.wait(LIMIT_S)
        assert web.adapt().json()["code"] == "overloaded"
        go_on.set()
        assert reading.result(LIMIT_S).json()["code"] == "no_samples"
        assert web.adapt().status_code == 201


class Held(FakePrediction):
    """Predictions that run until the test ends them."""

    def __init__(self, services: FakeServices) -> None:
        super().__init__(services.clients)
        self.works: list[Future[Any]] = []
        self.submitted = threading.Semaphore(0)

    def submit(self, *args: object) -> Future[Any]:
        self.works.append(Future())
        self.submitted.release()
        return self.works[-1]


@pytest.fixture
def full(settings: Settings) -> Iterator[Web]:
    """Start a service in which as many images wait as it admits."""
    services = FakeServices()
    held = services.prediction = Held(services)
    largest = load_settings(max_files=MAX_IMAGES)
    with started(create_app(largest, lambda _: services), services) as web:
        images = {**SEND, "files": SEND["files"] * MAX_IMAGES}
        request = threading.Thread(target=web, args=("POST", "/predict"), kwargs=images)
        request.start()
        assert held.submitted.acquire(timeout=LIMIT_S)
        yield web
        held.works[0].set_exception(KeyError("x"))
        request.join(LIMIT_S)


def test_a_rejected_prediction_is_answered_with_a_problem(full: Web) -> None:
    response = full("POST", "/predict", **SEND)
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"] != full("POST", "/predict", **SEND).headers["x-request-id"]


def test_no_byte_of_a_rejected_body_is_read(full: Web) -> None:
    read: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        read.append(b"")
        yield b""

    response = full("POST", "/predict", content=chunks(), headers={"Content-Type": "text/plain"})
    assert response.status_code == 503
    assert read == []


def test_each_rejection_is_counted_and_they_share_a_log_line(full: Web) -> None:
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            full("POST", "/predict", **SEND)
    assert [line["event"] for line in lines] == ["requests rejected"]
    metrics = full("GET", "/metrics").text
    assert 'anole_refused_total{work="predict"} 5.0' in metrics
    assert 'anole_requests_total{method="POST",route="/predict",status="503"} 5.0' in metrics


def test_other_requests_are_served_while_no_prediction_is_admitted(full: Web) -> None:
    assert full("GET", "/livez").status_code == 200
    assert full("GET", "/predict").status_code == 405
    assert full.adapt().status_code == 201
