"""SIGTERM under load: every request gets a response, and the process exits in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.client import AdaptOptions, Client
from service.settings import Settings
from service.store.open_store import open_embedded
from tests.e2e.conftest import SAMPLES, serving
from tests.generated import tiny_checkpoint_in

pytestmark = pytest.mark.slow

ENDS_IN_S = 25
ADAPTING, PREDICTING = 2, 6


def fail_on_retry(seconds: float) -> None:
    raise AssertionError(f"the service rejected a request and requested a retry in {seconds} s")


class Load:
    """Callers that repeat requests, each on a new connection, until `stop` is set."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stop = threading.Event()
        self.completed: list[str] = []
        self.failed: list[Exception] = []
        kinds = [self._adapt] * ADAPTING + [self._predict] * PREDICTING
        self._callers = [threading.Thread(target=self._repeat, args=(kind, n)) for n, kind in enumerate(kinds)]
        for caller in self._callers:
            caller.start()

    def _repeat(self, kind: Callable[[Client, int], str], number: int) -> None:
        while not self.stop.is_set():
            try:
                with Client(self._url, sleep=fail_on_retry) as anole:
                    self.completed.append(kind(anole, number))
            except Exception as error:  # noqa: BLE001 - the test reports every error
                self.failed.append(error)
                return

    def _adapt(self, anole: Client, number: int) -> str:
        made = anole.adapt(f"line-{number}", SAMPLES, AdaptOptions(mode="replace", publish="always", steps=1))
        return f"adapt {made.version}"

    def _predict(self, anole: Client, _: int) -> str:
        return f"predict {anole.predict('line', [SAMPLES[0].content]).version}"

    def ended(self) -> bool:
        """Wait for the callers and return whether all have stopped."""
        for caller in self._callers:
            caller.join(ENDS_IN_S)
        return not any(caller.is_alive() for caller in self._callers)


def test_sigterm_under_load_drops_no_request_and_the_process_exits_in_time(tmp_path: Path) -> None:
    with serving(tmp_path, tiny_checkpoint_in(tmp_path), ANOLE_DEMO="false", ANOLE_DRAIN_S="3") as running:
        with Client(running.url) as anole:
            anole.adapt("line", SAMPLES)
        load = Load(running.url)
        with httpx.Client(base_url=running.url) as web:
            while len(load.completed) < 30 and not load.failed:
                assert web.get("/readyz").status_code == 200
            began = time.monotonic()
            running.process.terminate()
            while web.get("/readyz").status_code == 200:
                assert time.monotonic() - began < ENDS_IN_S
            before = len(load.completed)
            while len(load.completed) < before + 5 and not load.failed:  # new requests still get a response
                assert web.get("/readyz").status_code == 503
        load.stop.set()
        assert load.ended()
        running.process.wait(ENDS_IN_S)
        assert time.monotonic() - began < ENDS_IN_S
    assert load.failed == []
    assert {line.split()[0] for line in load.completed} == {"adapt", "predict"}
    assert any('"stopped"' in line for line in running.printed)
    with open_embedded(tmp_path) as store:
        made = sum(line.startswith("adapt") for line in load.completed)
        assert sum(len(store.catalog.versions(f"line-{number}")) for number in range(ADAPTING)) == made


def test_an_endless_body_does_not_prevent_the_process_from_exiting(tmp_path: Path) -> None:
    environment = {"ANOLE_DEMO": "false", "ANOLE_DRAIN_S": "0", "ANOLE_STOP_S": "1"}
    with serving(tmp_path, tiny_checkpoint_in(tmp_path), **environment) as running:
        address = urlsplit(running.url)
        with socket.create_connection((address.hostname, address.port), timeout=ENDS_IN_S) as raw:
            raw.sendall(b"POST /predict?client=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n")
            raw.sendall(b"Content-Length: 1000\r\n\r\nx")
            assert httpx.get(f"{running.url}/livez").status_code == 200
            running.process.terminate()
            running.process.wait(ENDS_IN_S)


def test_an_adaptation_that_outlasts_the_time_to_stop_gets_a_problem_and_can_be_sent_again(tmp_path: Path) -> None:
    fields = {"client": "line", "steps": "10000", "labels": [sample.label for sample in SAMPLES]}
    files = [("samples", (sample.name, sample.content)) for sample in SAMPLES]
    environment = {"ANOLE_DEMO": "false", "ANOLE_DRAIN_S": "0", "ANOLE_STOP_S": "1", "ANOLE_MAX_STEPS": "10000"}
    with (
        serving(tmp_path, tiny_checkpoint_in(tmp_path), **environment, ANOLE_ADAPT_S="600") as running,
        httpx.Client(base_url=running.url, timeout=ENDS_IN_S * 2) as web,
        ThreadPoolExecutor(1) as pool,
    ):
        pending = pool.submit(web.post, "/adapt", data=fields, files=files)
        while "anole_adapt_in_work 1.0" not in httpx.get(f"{running.url}/metrics").text:
            assert not pending.done()
        running.process.terminate()
        response = pending.result()
        running.process.wait(ENDS_IN_S)
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert response.headers["retry-after"] == "1"
    with serving(tmp_path, tmp_path / "tiny.safetensors", ANOLE_DEMO="false") as again, Client(again.url) as anole:
        assert anole.clients() == []
        assert anole.adapt("line", SAMPLES).version == 1


def test_the_default_stop_deadlines_are_short_enough() -> None:
    seconds = Settings.model_fields["drain_s"].default + Settings.model_fields["stop_s"].default
    assert seconds < ENDS_IN_S
