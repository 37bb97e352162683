"""POST /adapt without a job: time limits, disconnects, and versions that are being stored at the time limit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.types import Message

from service.errors import client_exists
from service.http.app import create_app
from service.runtime.adapt_queue import JobControl
from service.settings import load_settings
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from tests.in_process import PNG, Web, started
from tests.unit.service.fakes import FakeAdaptation, FakeServices

LIMIT_S = 30


class Patient(FakeAdaptation):
    """Waits for the test before it stores a version. Checks its `JobControl` as the real one does."""

    def __init__(self, services: FakeServices) -> None:
        super().__init__(services.clients)
        self.begun, self.go, self.recording = threading.Event(), threading.Event(), False
        self.ended = threading.Event()

    def submit(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        self.controls.append(control)
        self.before = lambda: self._work(control)
        future = super().submit(command, control)
        future.add_done_callback(lambda _: self.ended.set())
        return future

    def _work(self, control: JobControl) -> None:
        with ExitStack() as stack:
            if self.recording:
                stack.enter_context(control.committing())
            self.begun.set()
            assert self.go.wait(LIMIT_S)
            if not self.recording:
                control.check()


@pytest.fixture
def patient() -> Iterator[Web]:
    """Start a service with a time limit of 0.02 s. The test decides when its adaptations end."""
    services = FakeServices()
    adaptation = services.adaptation = Patient(services)
    with started(create_app(load_settings(adapt_s=0.02), lambda _: services), services) as web:
        yield web
        adaptation.go.set()


def versions(web: Web) -> int:
    return sum(map(len, web.services.clients.kept.values()))


def test_an_adaptation_that_hangs_gets_503_at_its_time_limit_and_makes_no_version(patient: Web) -> None:
    response = patient.adapt()
    assert (response.status_code, response.json()["code"]) == (503, "deadline_passed")
    assert int(response.headers["retry-after"]) > 0
    assert "anole_adapt_taken 1.0" in patient("GET", "/metrics").text
    patient.services.adaptation.go.set()
    assert patient.services.adaptation.ended.wait(LIMIT_S)
    assert versions(patient) == 0


def test_a_value_of_first_that_does_not_exist_is_named_with_those_that_do(patient: Web) -> None:
    response = patient.adapt(first="x")
    assert (response.status_code, response.json()["code"]) == (422, "field_invalid")
    assert "'first' is 'x'; allowed: prototypes" in response.json()["detail"]


def test_a_request_may_ask_for_a_new_client(patient: Web) -> None:
    patient.services.adaptation.raises = client_exists("line")
    patient.services.adaptation.go.set()
    form = {"data": {"client": "line", "labels": ["a"]}, "files": [("samples", ("1.png", PNG))]}
    response = patient("POST", "/adapt", headers={"If-None-Match": "*"}, **form)
    assert (response.status_code, response.json()["code"]) == (412, "client_exists")
    assert patient.services.adaptation.commands[-1].new_client
    response = patient("POST", "/adapt", headers={"If-None-Match": '"4f2c81d0-3"'}, **form)
    assert (response.status_code, response.json()["code"]) == (422, "precondition_invalid")
    assert "allowed: *" in response.json()["detail"]


def test_a_version_that_is_being_stored_at_the_time_limit_is_returned(patient: Web) -> None:
    adaptation = patient.services.adaptation
    adaptation.recording = True
    threading.Timer(0.2, adaptation.go.set).start()
    assert patient.adapt().status_code == 201
    assert versions(patient) == 1


def test_a_disconnect_stops_the_adaptation_and_frees_its_slot(settings: Any) -> None:
    services = FakeServices()
    adaptation = services.adaptation = Patient(services)
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="' + name + b'"' + rest + b"\r\n"
        for name, rest in [
            (b"client", b"\r\n\r\nline"),
            (b"labels", b"\r\n\r\na"),
            (b"samples", b'; filename="1"\r\n\r\n' + PNG),
        ]
    )
    sent: list[bool] = []
    statuses: list[int] = []

    async def receive() -> Message:
        if not sent:
            sent.append(True)
            return {"type": "http.request", "body": body + b"--x--\r\n", "more_body": False}
        while not adaptation.begun.is_set():
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if "status" in message:
            statuses.append(message["status"])

    app = create_app(settings, lambda _: services)
    with started(app, services) as web:
        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"host", b"127.0.0.1")]
        scope = {
            "type": "http", "method": "POST", "path": "/adapt", "headers": headers, "query_string": b"",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        web.portal.call(app, scope, receive, send)
        adaptation.go.set()
        assert adaptation.ended.wait(LIMIT_S)
        assert versions(web) == 0
        assert "anole_adapt_taken 0.0" in web("GET", "/metrics").text
    assert statuses == [499]
