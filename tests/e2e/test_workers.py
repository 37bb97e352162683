"""Two workers on one store: moves, jobs and metrics are those of both, and a killed worker is replaced."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from service.client import AdaptOptions, Client
from service.domain.job import LEASE_S
from service.store.catalog.sqlite import SqliteDatabase
from service.store.open_store import CATALOG_FILE
from tests.contract.values import age
from tests.e2e.conftest import SAMPLES, START_LIMIT_S, STOP_LIMIT_S, Process, serving
from tests.generated import tiny_checkpoint_in

pytestmark = pytest.mark.slow

CONNECTIONS = 6
LISTED = 'anole_requests_total{method="GET",route="/clients",status="200"}'
ALWAYS = AdaptOptions(mode="replace", publish="always")
UNBOUNDED = {
    "ANOLE_DEMO": "false", "ANOLE_KEY_RATE_PER_S": "1000000", "ANOLE_DECODER_PROCESSES": "0",
    "ANOLE_MAX_STEPS": "10000", "ANOLE_ADAPT_S": "600",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[Process]:
    demo = {**UNBOUNDED, "ANOLE_DEMO": "true"}
    with serving(folder / "data", tiny_checkpoint_in(folder), "--workers", "2", **demo) as process:
        yield process


def workers(service: Process) -> set[int]:
    """Return the worker processes: children that run the service, without helper processes of Python."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return {int(pid) for pid in children if b"spawn_main" in command_of(pid)}


def command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it has ended since
        return b""


@dataclass
class Caller(threading.Thread):
    """Repeat predictions on one connection. Broken connections are counted and replaced."""

    url: str
    stop: threading.Event
    versions: list[int] = field(default_factory=list)
    broken_at: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self.stop.is_set():
            with httpx.Client(base_url=self.url, timeout=30) as web:
                try:
                    while not self.stop.is_set():
                        self.one(web)
                except httpx.TransportError:
                    self.broken_at.append(time.monotonic())

    def one(self, web: httpx.Client) -> None:
        response = web.post("/predict", data={"client": "line"}, files=[("images", ("a.png", SAMPLES[0].content))])
        if response.status_code == 200:
            self.versions.append(response.json()["version"])
        else:
            self.errors.append(response.text)


def wait_for(reached: object, what: str) -> None:
    until = time.monotonic() + START_LIMIT_S
    while not reached():  # type: ignore[operator]
        if time.monotonic() > until:
            pytest.fail(f"no {what} within {START_LIMIT_S} s", pytrace=False)
        threading.Event().wait(0.05)


def test_workers_share_one_store_and_one_demo_client(pair: Process) -> None:
    with Client(pair.url) as anole:
        anole.adapt("shared", SAMPLES, ALWAYS)
    for _ in range(20):  # connections may reach different workers
        with Client(pair.url) as anole:
            assert [version.version for version in anole.versions("demo")] == [1]
            assert anole.predict("shared", [SAMPLES[0].content]).version == 1


def test_the_supervisor_does_without_torch_that_its_workers_use(pair: Process) -> None:
    def loaded(pid: int) -> bool:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()

    assert [loaded(worker) for worker in workers(pair)] == [True, True]
    assert not loaded(pair.process.pid)


def test_every_worker_sees_an_alias_move_at_once(pair: Process) -> None:
    lines = [Client(pair.url) for _ in range(CONNECTIONS)]
    try:
        image = [SAMPLES[0].content]
        for live in (1, 2, 3):
            assert lines[live].adapt("mover", SAMPLES, ALWAYS).version == live
            assert [line.predict("mover", image).version for line in lines] == [live] * CONNECTIONS
        assert lines[0].rollback("mover").version == 2
        assert [line.predict("mover", image).version for line in lines] == [2] * CONNECTIONS
    finally:
        for line in lines:
            line.close()


def test_metrics_are_those_of_both_workers(pair: Process) -> None:
    lines = [httpx.Client(base_url=pair.url, timeout=START_LIMIT_S) for _ in range(2 * CONNECTIONS)]
    try:
        before = metrics(lines[0])
        for line in lines:
            assert line.get("/clients").status_code == 200
        wait_for(lambda: metrics(lines[0]).get(LISTED, 0) - before.get(LISTED, 0) == len(lines), "sum of requests")
        assert metrics(lines[0])["anole_workers"] == 2
        assert metrics(lines[0])["process_resident_memory_bytes"] > before["process_resident_memory_bytes"] / 2
    finally:
        for line in lines:
            line.close()


def metrics(line: httpx.Client) -> dict[str, float]:
    text = line.get("/metrics").text
    rows = (row.rpartition(" ") for row in text.splitlines() if not row.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def start_long_job(pair: Process) -> str:
    files = [("samples", (sample.name, sample.content)) for sample in SAMPLES]
    fields = {"client": "lost", "steps": "10000", "labels": [sample.label for sample in SAMPLES]}
    headers = {"Prefer": "respond-async", "Idempotency-Key": "again"}
    accepted = httpx.post(f"{pair.url}/adapt", data=fields, files=files, headers=headers, timeout=START_LIMIT_S)
    assert accepted.status_code == 202, accepted.text
    return f"{pair.url}{accepted.headers['location']}"


def test_a_killed_worker_is_replaced_and_the_other_one_loses_nothing(pair: Process) -> None:
    with Client(pair.url) as anole:
        acknowledged = [anole.adapt("line", SAMPLES, ALWAYS).weights.digest for _ in range(2)]
    stop = threading.Event()
    callers = [Caller(pair.url, stop) for _ in range(CONNECTIONS)]
    for caller in callers:
        caller.start()
    for kills in (1, 2):
        before = workers(pair)
        assert len(before) == 2
        wait_for(lambda: all(len(caller.versions) > 3 for caller in callers), "responses")
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda before=before: len(workers(pair) - before) == 1, "new worker")
        for caller in callers:
            caller.versions.clear()
        assert all(len(caller.broken_at) <= kills for caller in callers)  # at most once per kill
    wait_for(lambda: all(len(caller.versions) > 3 for caller in callers), "responses")
    stop.set()
    for caller in callers:
        caller.join(30)
    assert {version for caller in callers for version in caller.versions} == {2}
    assert [error for caller in callers for error in caller.errors] == []
    with Client(pair.url) as anole:
        assert [version.weights.digest for version in anole.versions("line")] == acknowledged
        assert anole.adapt("line", SAMPLES, ALWAYS).version == 3


def test_a_job_whose_worker_is_killed_fails_and_its_key_makes_a_new_attempt(pair: Process, folder: Path) -> None:
    job = start_long_job(pair)
    killed = workers(pair)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, killed)), "end of the workers")
    with closing(SqliteDatabase(folder / "data" / CATALOG_FILE)) as database:
        age(database, LEASE_S, job.rpartition("/")[2])
    with httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=START_LIMIT_S) as web:
        assert "worker_lost" in web.get(f"{job}/events").text.strip().split("\n\n")[-1]
    with Client(pair.url) as anole:
        assert anole.adapt("lost", SAMPLES, ALWAYS, idempotency_key="again").version == 1


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_after_sigterm_no_connection_is_accepted_that_no_worker_serves(tmp_path: Path) -> None:
    settings = {**UNBOUNDED, "ANOLE_DRAIN_S": "0.2", "ANOLE_STOP_S": "5"}
    options = ("--workers", "2")
    with serving(tmp_path, tiny_checkpoint_in(tmp_path), *options, **settings) as process:
        with httpx.Client(base_url=process.url, timeout=START_LIMIT_S) as web, ThreadPoolExecutor(1) as pool:
            files = [("samples", (sample.name, sample.content)) for sample in SAMPLES]
            fields = {"client": "line", "steps": "10000", "labels": [sample.label for sample in SAMPLES]}
            pending = pool.submit(web.post, "/adapt", data=fields, files=files)
            wait_for(lambda: pending.done() or is_adapting(process.url), "adaptation")
            process.process.terminate()
            assert broken_until_refused(f"{process.url}/livez") <= 2  # that waited as the two workers closed the port
            assert process.process.poll() is None  # one worker still adapts
            assert pending.result().json()["code"] == "overloaded"
        process.process.wait(STOP_LIMIT_S)


def broken_until_refused(url: str) -> int:
    """Open connections until one is refused, and return how many were closed. Silence ends in an error."""
    broken = 0
    while True:
        try:
            httpx.get(url, timeout=5)
        except httpx.ConnectError:
            return broken
        except (httpx.ReadError, httpx.RemoteProtocolError):
            broken += 1


def is_adapting(url: str) -> bool:
    return "anole_adapt_in_work 1.0" in httpx.get(f"{url}/metrics", timeout=START_LIMIT_S).text


def test_workers_end_and_free_the_port_when_their_supervisor_is_killed(pair: Process) -> None:
    """The last test of this file: it ends the service of the others, since one more would take long to start."""
    wait_for(lambda: len(workers(pair)) == 2, "two workers")
    orphans = workers(pair)
    pair.process.kill()
    pair.process.wait(STOP_LIMIT_S)
    wait_for(lambda: not any(map(alive, orphans)), "end of the workers")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{pair.url}/livez")
