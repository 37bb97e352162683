"""A shared store in PostgreSQL and an object store, used by several services and processes at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from service import bootstrap
from service.domain.version import LIVE
from service.http.app import create_app
from service.settings import Settings, load_settings
from service.store.open_store import StoreLocation, open_store
from service.store.version_store import VersionStore
from tests.generated import striped
from tests.in_process import Web, started
from tests.integration import store_child
from tests.integration.store_child import CLIENT, publish
from tests.integration.test_api_service import adapt, predict
from tests.processes import PROCESSES
from tests.real_parts import ObjectServer


@pytest.fixture
def place(tmp_path: Path, empty_catalog: str, objects: ObjectServer) -> StoreLocation:
    return StoreLocation(tmp_path / "unused", empty_catalog, objects.url(objects.new_bucket()))


@pytest.fixture
def store(place: StoreLocation) -> Iterator[VersionStore]:
    with open_store(place) as opened:
        yield opened


@pytest.fixture
def settings(place: StoreLocation, tiny_checkpoint: Path) -> Settings:
    return load_settings(
        data=place.folder, catalog_url=place.catalog_url, blobs_url=place.blobs_url, model=str(tiny_checkpoint),
        device="cpu", demo=False, max_steps=10_000, decoder_processes=0,
    )  # fmt: skip


@pytest.fixture
def two(settings: Settings) -> Iterator[tuple[Web, Web]]:
    """Two services on one store, as two machines would run them."""
    services = [bootstrap.build(settings) for _ in range(2)]
    with (
        started(create_app(settings, lambda _: services[0]), services[0]) as one,
        started(create_app(settings, lambda _: services[1]), services[1]) as other,
    ):
        yield one, other


def test_a_version_made_by_one_service_is_served_by_the_other(two: tuple[Web, Web], place: StoreLocation) -> None:
    one, other = two
    assert adapt(one).status_code == 201
    images = striped(2, 6, seed=9) + striped(2, 20, seed=9)
    here, there = predict(one, images).json(), predict(other, images).json()
    assert here["predictions"] == there["predictions"]
    assert adapt(other, classes={"broad": 30}).json()["version"] == 2
    assert predict(one, images).json()["version"] == 2
    assert other("POST", "/clients/line/rollback").json()["version"] == 1
    assert predict(one, images).json()["version"] == 1
    assert [one("GET", "/readyz").status_code, other("GET", "/readyz").status_code] == [200, 200]
    assert not place.folder.exists()


def test_an_idempotency_key_of_one_service_is_recognised_by_the_other(two: tuple[Web, Web]) -> None:
    one, other = two
    first = adapt(one, headers={"Idempotency-Key": "part-17"})
    again = adapt(other, headers={"Idempotency-Key": "part-17"})
    assert (first.status_code, again.json()["version"]) == (201, 1)
    assert again.json()["report"] == first.json()["report"]


def start_long_job(web: Web, key: str) -> str:
    """Start a job that takes minutes and wait for its first inner step. Returns its path."""
    accepted = adapt(web, steps="10000", headers={"Prefer": "respond-async", "Idempotency-Key": key})
    assert accepted.status_code == 202, accepted.text
    path: str = accepted.headers["location"]
    wait_until(lambda: web("GET", path).json()["steps"]["done"] > 0)
    return path


def wait_until(reached: Callable[[], bool], limit_s: float = 30.0) -> None:
    until, pause = time.monotonic() + limit_s, threading.Event()
    while not reached():
        assert time.monotonic() < until
        pause.wait(0.05)


def test_a_job_of_one_service_is_shown_followed_and_cancelled_by_the_other(two: tuple[Web, Web]) -> None:
    one, other = two
    path = start_long_job(one, "k")
    wait_until(lambda: other("GET", path).json()["steps"]["done"] > 0)
    again = adapt(other, steps="10000", headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_in_flight")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(other, "GET", f"{path}/events")
        assert other("DELETE", path).json()["state"] == "cancelled"
        assert following.result().text.strip().split("\n\n")[-1].startswith("event: cancelled")
    assert one("GET", path).json()["state"] == "cancelled"
    wait_until(lambda: "anole_adapt_in_work 0.0" in one("GET", "/metrics").text)
    assert other("GET", "/clients").json()["clients"] == []
    assert adapt(other, headers={"Idempotency-Key": "k"}).json()["version"] == 1


def test_deleting_a_client_through_one_service_ends_its_job_in_the_other(two: tuple[Web, Web]) -> None:
    one, other = two
    adapt(one)
    path = start_long_job(one, "k")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(other, "GET", f"{path}/events")
        wait_until(lambda: other("GET", path).json()["state"] == "running")
        assert other("DELETE", "/clients/line").status_code == 200
        last = following.result().text.strip().split("\n\n")[-1]
    assert last.startswith("event: failed")
    assert "client_deleted" in last
    wait_until(lambda: "anole_adapt_in_work 0.0" in one("GET", "/metrics").text)
    assert one("GET", "/clients").json()["clients"] == []


def test_deleting_a_client_deletes_all_its_objects(two: tuple[Web, Web], store: VersionStore) -> None:
    one, other = two
    adapt(one)
    adapt(one, "kept")
    erased = other("DELETE", "/clients/line").json()
    assert (erased["versions"], erased["blobs"]) == (1, 9)
    assert predict(one, striped(1, 6)).json()["code"] == "unknown_client"
    assert list(store._blobs.spaces()) == ["kept"]


def test_a_nul_character_in_a_request_for_records_is_rejected(two: tuple[Web, Web]) -> None:
    """PostgreSQL's texts cannot hold it."""
    one, _ = two
    adapt(one)
    for path, code in (
        ("/clients/line/predictions?label=%00", "invalid_name"),
        ("/clients/line/predictions?station=%00", "invalid_name"),
        ("/jobs/%00", "unknown_job"),
        ("/jobs/%00/events", "unknown_job"),
    ):
        assert one("GET", path).json()["code"] == code
    assert one("DELETE", "/jobs/%00").json()["code"] == "unknown_job"


def test_a_file_name_with_a_nul_character_is_accepted(two: tuple[Web, Web]) -> None:
    """PostgreSQL's texts cannot hold it."""
    files = [("samples", (f"part\0{i}.png", content)) for i, content in enumerate(striped(2, 6) + striped(2, 20))]
    labels = ["fine", "fine", "coarse", "coarse"]
    response = two[0]("POST", "/adapt", data={"client": "line", "labels": labels}, files=files)
    assert response.status_code in (201, 422), response.text


def test_racing_threads_and_services_get_gapless_numbers(place: StoreLocation) -> None:
    with open_store(place) as one, open_store(place) as other, ThreadPoolExecutor(12) as pool:
        made = sorted(pool.map(lambda i: publish((one, other)[i % 2], i), range(48)))
        assert made == [(i, i) for i in range(1, 49)]
        assert one.catalog.alias(CLIENT, LIVE).version == 48
        assert other.check().whole


def test_racing_processes_get_gapless_numbers(place: StoreLocation, store: VersionStore) -> None:
    ends: list[Connection] = []
    running = []
    for _ in range(2):
        ours, theirs = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=store_child.publish_many, args=(place, 15, theirs))
        process.start()
        theirs.close()
        ends.append(ours)
        running.append(process)
    numbers = [[end.recv() for _ in range(15)] for end in ends]
    for process, end in zip(running, ends, strict=True):
        process.join()
        assert process.exitcode == 0
        process.close()
        end.close()
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 31))
    assert all(mine == sorted(mine) for mine in numbers)
    assert [move.version for move in store.catalog.history(CLIENT)] == list(range(1, 31))


def test_collecting_and_deleting_keep_required_blobs(place: StoreLocation, store: VersionStore) -> None:
    for i in range(4):
        publish(store, i)
    publish(store, 9, client="line-2", aliases=())
    store.delete_version(CLIENT, 1)
    store.delete_version("line-2", 1)
    store.put_weights(CLIENT, {}, {"never": "published"})
    assert store.collect().removed == 0
    assert store.collect(grace_s=0.0).removed == 1
    report = store.check()
    assert report.whole
    assert sum(1 for space in store._blobs.spaces() for _ in store._blobs.entries(space)) == report.blobs
