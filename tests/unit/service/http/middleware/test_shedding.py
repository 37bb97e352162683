"""What is refused before anything is looked at: the same answer as any other refusal, counted, and logged once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import structlog

from service.http import app as http_app
from service.http.app import create_app
from service.settings import load_settings
from tests.in_process import PNG, Web, started
from tests.unit.service.fakes import FakeServices

SEND: dict[str, Any] = {"data": {"client": "line"}, "files": [("images", ("a.png", PNG))]}


class Held:
    """A prediction that takes requests and answers them when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Future[Any]] = []
        self.come = threading.Semaphore(0)

    def submit(self, *given: object) -> Future[Any]:
        answer: Future[Any] = Future()
        self.waiting.append(answer)
        self.come.release()
        return answer


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A service whose only place to predict is taken."""
    services = FakeServices()
    held = Held()
    services.prediction = held  # type: ignore[assignment]
    for name, value in (("BATCHES", 1), ("BATCH_IMAGES", 1), ("WAITING_IMAGES", 0)):
        monkeypatch.setattr(http_app, name, value)
    settings = load_settings()
    with started(create_app(settings, lambda _: services), services) as web:
        taken = threading.Thread(target=web, args=("POST", "/predict"), kwargs=SEND)
        taken.start()
        assert held.come.acquire(timeout=30)
        yield web
        held.waiting[0].set_exception(KeyError("x"))
        taken.join(30)


def test_a_full_room_is_answered_at_once_with_a_problem_like_any_other(full: Web) -> None:
    answer = full("POST", "/predict", **SEND)
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] != full("POST", "/predict", **SEND).headers["x-request-id"]


def test_no_byte_of_its_body_is_read_and_no_header_looked_at(full: Web) -> None:
    read: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        read.append(b"")
        yield b""

    answer = full("POST", "/predict", content=chunks(), headers={"Content-Type": "text/plain", "X-API-Key": "wrong"})
    assert answer.status_code == 503
    assert read == []


def test_refusals_are_counted_each_and_logged_once(full: Web) -> None:
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            full("POST", "/predict", **SEND)
    assert [line["event"] for line in lines] == ["refused unread"]
    figures = full("GET", "/metrics").text
    assert 'anole_refused_total{work="predict"} 5.0' in figures
    assert 'anole_requests_total{method="POST",route="/predict",status="503"} 5.0' in figures


def test_everything_else_goes_on(full: Web) -> None:
    assert full("GET", "/livez").status_code == 200
    assert full("GET", "/predict").status_code == 405
    assert full.adapt().status_code == 201
