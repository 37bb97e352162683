"""Two services on one shared store, as two machines run them: jobs, races and predictions, and one that is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url

from service.client import Client
from service.store.catalog.postgres import PostgresDatabase
from tests.contract.values import age
from tests.e2e.conftest import SAMPLES, START_LIMIT_S, Process, serving
from tests.e2e.test_workers import ALWAYS, UNBOUNDED, wait_for
from tests.generated import tiny_checkpoint_in
from tests.real_parts import ObjectServer, PostgresServer

pytestmark = pytest.mark.slow

RACERS = 8


@dataclass(frozen=True)
class Replicas:
    """Two services and the database that they share."""

    one: Process
    other: Process
    database: PostgresDatabase


@pytest.fixture(scope="module")
def replicas(
    postgres: PostgresServer, catalog_template: str, objects: ObjectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    name, folder = postgres.new_database(catalog_template), tmp_path_factory.mktemp("replicas")
    shared = {
        **UNBOUNDED,
        "ANOLE_CATALOG_URL": postgres.url(name),
        "ANOLE_BLOBS_URL": objects.url(objects.new_bucket()),
    }
    database, checkpoint = PostgresDatabase(make_url(postgres.url(name))), tiny_checkpoint_in(folder)
    with (
        serving(folder / "one", checkpoint, **shared) as one,
        serving(folder / "other", checkpoint, **shared) as other,
    ):
        yield Replicas(one, other, database)
    database.close()
    postgres.drop(name)


def request_job(replica: Process, client: str, key: str, steps: int) -> httpx.Response:
    files = [("samples", (sample.name, sample.content)) for sample in SAMPLES]
    fields = {"client": client, "steps": str(steps), "labels": [sample.label for sample in SAMPLES]}
    headers = {"Prefer": "respond-async", "Idempotency-Key": key}
    return httpx.post(f"{replica.url}/adapt", data=fields, files=files, headers=headers, timeout=START_LIMIT_S)


def start_job(replica: Process, client: str, key: str, steps: int) -> str:
    """Start a job and return its path."""
    accepted = request_job(replica, client, key, steps)
    assert accepted.status_code == 202, accepted.text
    path: str = accepted.headers["location"]
    return path


def start_long_job(replica: Process, client: str) -> str:
    """Start a job that takes minutes and return its path, once it has taken inner steps."""
    path = start_job(replica, client, client, 10_000)
    wait_for(lambda: job_at(replica, path)["steps"]["done"] > 0, "inner steps")
    return path


def job_at(replica: Process, path: str, method: str = "GET") -> Any:
    return httpx.request(method, f"{replica.url}{path}", timeout=START_LIMIT_S).json()


def last_event(replica: Process, path: str) -> str:
    return httpx.get(f"{replica.url}{path}/events", timeout=START_LIMIT_S).text.strip().split("\n\n")[-1]


def test_every_route_of_a_job_works_through_the_other_replica(replicas: Replicas) -> None:
    path = start_long_job(replicas.one, "line")
    wait_for(lambda: job_at(replicas.other, path)["steps"]["done"] > 0, "progress at the other replica")
    again = request_job(replicas.other, "line", "line", 10_000)
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_in_flight")
    with ThreadPoolExecutor(1) as pool, Client(replicas.other.url) as other, Client(replicas.one.url) as one:
        following = pool.submit(last_event, replicas.other, path)
        assert job_at(replicas.other, path, "DELETE")["state"] == "cancelled"
        assert following.result().startswith("event: cancelled")
        assert job_at(replicas.one, path)["state"] == "cancelled"
        assert last_event(replicas.one, path).startswith("event: cancelled")
        made = other.adapt("line", SAMPLES, ALWAYS, idempotency_key="line")
        assert (made.version, one.adapt("line", SAMPLES, ALWAYS, idempotency_key="line").version) == (1, 1)
        done = start_job(replicas.one, "line", "second", 5)
        *_, last = other.follow_job(done.rpartition("/")[2])
        assert (last.state, last.result.version if last.result else None) == ("done", 2)
        assert one.client("line").latest == other.client("line").latest == 2


def test_racing_publishes_through_both_replicas_get_versions_without_gaps(replicas: Replicas) -> None:
    urls = [replicas.one.url, replicas.other.url]

    def publish(number: int) -> int:
        with Client(urls[number % 2]) as anole:
            return anole.adapt("race", SAMPLES, ALWAYS).version

    with ThreadPoolExecutor(RACERS) as pool:
        made = list(pool.map(publish, range(RACERS)))
    assert sorted(made) == list(range(1, RACERS + 1))
    with Client(urls[0]) as one, Client(urls[1]) as other:
        moves = one.history("race").moves
        assert [move.version for move in moves] == [move.revision for move in moves] == list(range(1, RACERS + 1))
        image = [SAMPLES[0].content]
        for back in (1, 2):
            assert one.rollback("race").version == RACERS - back
            here, there = one.predict("race", image), other.predict("race", image)
            assert (here.version, here.predictions) == (RACERS - back, there.predictions)


def test_a_killed_replica_loses_its_job_and_nothing_else(replicas: Replicas) -> None:
    with Client(replicas.other.url) as other:
        acknowledged = other.adapt("kept", SAMPLES, ALWAYS)
    path = start_long_job(replicas.other, "lost")
    wait_for(lambda: job_at(replicas.one, path)["state"] == "running", "the state in the catalog")
    replicas.other.stop(signal.SIGKILL)
    with Client(replicas.one.url) as one:
        assert job_at(replicas.one, path)["state"] == "running"
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(last_event, replicas.one, path)
            age(replicas.database, 60, path.rpartition("/")[2])
            assert following.result().startswith("event: failed")
        assert job_at(replicas.one, path)["problem"]["code"] == "worker_lost"
        assert one.adapt("lost", SAMPLES, ALWAYS, idempotency_key="lost").version == 1
        assert [version.weights.digest for version in one.versions("kept")] == [acknowledged.weights.digest]
        assert one.predict("kept", [SAMPLES[0].content]).version == 1
