"""`anole serve` as a process: signals, kills, workers, limits, keys."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.store.open_store import StoreLocation, open_keys
from service.usecases.keys import FRESH_S
from tests.e2e.conftest import (
    ANOLE,
    ROOT,
    SAMPLES,
    START_LIMIT_S,
    STOP_LIMIT_S,
    Process,
    clean_environment,
    create_key,
    serving,
)
from tests.e2e.test_workers import wait_for
from tests.generated import tiny_checkpoint_in

pytestmark = pytest.mark.slow

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint_in(tmp_path_factory.mktemp("checkpoint"))


def start_error(*options: str) -> str:
    """Return the one line that a failing start prints."""
    done = subprocess.run(
        [str(ANOLE), "serve", "--port", "0", *options], cwd=ROOT, env=clean_environment(), text=True, check=False,
        timeout=START_LIMIT_S, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return line


def test_sigterm_finishes_running_requests_and_then_the_process(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with serving(tmp_path, tiny_checkpoint, ANOLE_DEMO="false", ANOLE_DRAIN_S="30") as running:
        with Client(running.url) as anole, httpx.Client(base_url=running.url) as web:
            anole.adapt("line", SAMPLES)
            assert web.get("/readyz").status_code == 200
            running.process.terminate()
            responses = (web.get("/readyz") for _ in range(1000))
            draining = next(response for response in responses if response.status_code == 503)
            assert draining.json()["checks"]["draining"] != "ok"
            assert anole.predict("line", [SAMPLES[0].content]).version == 1
        running.process.send_signal(signal.SIGINT)
        running.process.wait(STOP_LIMIT_S)
    assert any('"stopped"' in line for line in running.printed)


def test_acknowledged_versions_survive_a_kill(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with serving(tmp_path, tiny_checkpoint, ANOLE_DEMO="false") as running:
        with Client(running.url) as anole:
            created = [anole.adapt("line", SAMPLES) for _ in range(3)]
            predictions = anole.predict("line", [SAMPLES[0].content]).predictions
        running.stop(signal.SIGKILL)
    with serving(tmp_path, tiny_checkpoint, ANOLE_DEMO="false") as running, Client(running.url) as anole:
        assert [version.weights.digest for version in anole.versions("line")] == [
            adapted.weights.digest for adapted in created
        ]
        assert anole.predict("line", [SAMPLES[0].content]).predictions == predictions
        assert anole.adapt("line", SAMPLES).version == 4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Process]:
    """A service for tests that do not change it."""
    with serving(tmp_path_factory.mktemp("data"), tiny_checkpoint, ANOLE_DEMO="false") as process:
        yield process


def test_a_body_over_the_limit_is_rejected_while_it_is_sent(running: Process) -> None:
    with httpx.Client(base_url=running.url) as web:
        headers = {"Content-Type": "image/png"}
        counted = web.post("/predict?client=a", content=(bytes(MEBIBYTE) for _ in range(64)), headers=headers)
        declared = web.post("/predict?client=a", content=bytes(13 * MEBIBYTE), headers=headers)
        assert (counted.status_code, declared.status_code) == (413, 413)
        assert counted.json()["code"] == declared.json()["code"] == "body_too_large"
        assert web.get("/livez").status_code == 200


def test_endless_headers_are_rejected(running: Process) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(4000)))
        assert raw.recv(64).startswith(b"HTTP/1.1 400 ")
    with httpx.Client(base_url=running.url) as web:
        response = web.get("/livez")
    assert response.status_code == 200
    assert "server" not in response.headers


def test_an_invalid_start_prints_one_line_and_exits(tmp_path: Path) -> None:
    assert "no checkpoint 'nothing'" in start_error("--data", str(tmp_path / "data"), "--model", "nothing")


def test_a_key_is_required_and_revoking_it_reaches_every_worker(tmp_path: Path, tiny_checkpoint: Path) -> None:
    key = create_key(tmp_path, "predict", "adapt")
    with serving(tmp_path, tiny_checkpoint, "--host", "0.0.0.0", "--workers", "2", ANOLE_DEMO="false") as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1")
        with Client(url, key=key) as anole:
            anole.adapt("line", SAMPLES)
            assert anole.predict("line", [SAMPLES[0].content]).version == 1
        with httpx.Client(base_url=url) as web:
            assert web.get("/clients").status_code == 401
            wait_for(lambda: web.get("/readyz").status_code == 200, "readiness of every worker")
        with open_keys(StoreLocation(tmp_path)) as keys:
            keys.revoke(key[:14])
        revoked_at = time.monotonic()
        rejections = 0
        while time.monotonic() < revoked_at + FRESH_S or rejections < 20:  # connections may reach different workers
            with httpx.Client(base_url=url, headers={"X-API-Key": key}) as web:
                rejections = rejections + 1 if web.get("/clients").status_code == 401 else 0
            assert time.monotonic() < revoked_at + 30
        assert not any(key[15:] in line for line in running.printed)


def test_a_start_says_what_it_loads_and_where_it_will_listen(running: Process) -> None:
    starting, *_ = [json.loads(line) for line in running.printed if line.startswith("{")]
    assert starting["event"] == "starting"
    assert starting["url"] == running.url
    assert starting["model"].endswith("tiny.safetensors")
    assert not any("\x1b" in line for line in running.printed)  # no colours without a terminal
