"""A disk that is full, read-only or does not sync: the declared problem, reads go on, and it comes back by itself.

Full and read-only are real: a small file system of its own, mounted for the test. Mounting takes root; without it the
tests say that they were skipped, and what they try is tried with injected errors elsewhere.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.errors import AnoleError
from service import bootstrap
from service.domain.client import ClientSettings
from service.domain.version import LIVE
from service.errors import StoreFull, StoreUnavailable
from service.http.app import create_app
from service.settings import Settings, load_settings
from service.store.catalog import sqlite
from service.store.open_store import open_embedded
from tests.generated import striped
from tests.in_process import Web, started
from tests.integration.scripted_service import END_LIMIT_S, serving
from tests.integration.store_child import CLIENT, publish
from tests.integration.test_api_service import adapt, predict, samples

DISK_BYTES = 2 << 20
STEP_BYTES = 4096


class Disk:
    """A small file system in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, left_bytes: int) -> None:
        """Fill it up to that much free space."""
        free = os.statvfs(self.path)
        filler = self.path / "filler"
        filler.write_bytes(b"\0" * max(0, free.f_bavail * free.f_frsize - left_bytes))

    def empty(self) -> None:
        """Free the space again."""
        (self.path / "filler").unlink()

    def remount(self, mode: str) -> None:
        """Make it read-only ("ro") or writable ("rw")."""
        mount("-o", f"remount,{mode}", str(self.path))


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], text=True, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted ({done.stderr.strip()}); run the tests as root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path))
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def settings(tiny_checkpoint: Path, disk: Disk) -> Settings:
    return load_settings(
        data=disk.path / "data", model=str(tiny_checkpoint), device="cpu", demo=False,
        predict_s=60,  # the first prediction waits for a decoder process, which starts slowly on a busy machine
    )  # fmt: skip


@pytest.fixture
def web(settings: Settings) -> Iterator[Web]:
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        adapt(web)
        yield web


def status_and_code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json().get("code", "")


def test_on_a_full_disk_adaptations_fail_predictions_continue_and_free_space_is_enough_to_recover(
    web: Web, disk: Disk, settings: Settings
) -> None:
    before = predict(web, striped(2, 6, seed=9)).json()
    disk.fill(left_bytes=0)
    assert status_and_code(adapt(web, image_seed=1)) == (507, "store_full")
    assert predict(web, striped(2, 6, seed=9)).json()["predictions"] == before["predictions"]
    assert web("GET", "/clients/line/history").status_code == 200
    disk.empty()
    assert adapt(web, image_seed=1).json()["version"] == 2
    with bootstrap.open_store(settings) as store:
        assert store.check().whole


def test_wherever_the_disk_fills_up_a_version_is_complete_or_does_not_exist(disk: Disk) -> None:
    """Free space grows until a publish fits, so the disk fills up while blobs, journal or row are written."""
    with open_embedded(disk.path / "data") as store:
        publish(store, 0)
        rejected, made, i = 0, 1, 1
        while made < 3:
            disk.fill(left_bytes=(i - 1) * STEP_BYTES)
            try:
                publish(store, i)
                made += 1
            except StoreFull:
                rejected += 1
            assert store.catalog.client(CLIENT).latest == made
            assert store.check().whole
            disk.empty()
            i += 1
        assert rejected > 1
        store.collect(grace_s=0.0)
        publish(store, i)
        assert store.check().whole


@pytest.mark.parametrize("delete", ["version", "samples", "client"])
def test_deleting_works_on_a_full_disk(disk: Disk, delete: str) -> None:
    """The last deletion has emptied the journal, so that the next one needs room for it."""
    with open_embedded(disk.path / "data") as store:
        for client in (CLIENT, "line-2"):
            for i in range(3):
                publish(store, i, client=client)
        store.delete_version("line-2", 1)
        disk.fill(left_bytes=0)
        if delete == "version":
            store.delete_version(CLIENT, 1)
        elif delete == "samples":
            store.change_settings(CLIENT, {"retain_samples": False})
        else:
            store.delete_client(CLIENT)
        assert store.check().whole
        disk.empty()
        publish(store, 9)
        assert store.check().whole


def test_on_a_read_only_disk_predictions_continue_and_writes_resume_with_the_disk(disk: Disk) -> None:
    with open_embedded(disk.path / "data") as store:
        publish(store, 0)
        store.catalog.close()  # a disk with a file open for writing cannot be made read-only
        disk.remount("ro")
        for write in (
            lambda: publish(store, 1),
            lambda: store.update_settings(CLIENT, ClientSettings(keep_last=3)),
            lambda: store.delete_client(CLIENT),
        ):
            with pytest.raises(StoreUnavailable) as error:
                write()
            assert not isinstance(error.value, StoreFull)
            assert store.catalog.alias(CLIENT, LIVE).version == 1
            assert store.check().whole
        disk.remount("rw")
        assert publish(store, 1) == (2, 2)
        store.update_settings(CLIENT, ClientSettings(keep_last=3))
        assert store.check().whole


@pytest.mark.parametrize("journal", ["rollback journal", "write-ahead log"])
def test_a_store_on_a_read_only_disk_opens_and_serves_what_is_there(
    disk: Disk, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "FIRST_VERSION_SAFE_WITH_WAL", (3,) if journal == "write-ahead log" else (99,))
    with open_embedded(disk.path / "data") as store:
        publish(store, 0)
    disk.remount("ro")
    with open_embedded(disk.path / "data") as store:
        assert store.catalog.alias(CLIENT, LIVE).version == 1
        (served,) = store.served([(CLIENT, LIVE)])
        assert not isinstance(served, AnoleError)
        assert "head.weight" in store.served_weights(served)
        assert store.check().whole
        with pytest.raises(StoreUnavailable):
            publish(store, 1)
        store.catalog.close()
        disk.remount("rw")
        assert publish(store, 1) == (2, 2)
        assert store.catalog.alias(CLIENT, LIVE).version == 2


def test_on_a_read_only_disk_a_missing_store_is_not_created(disk: Disk) -> None:
    disk.remount("ro")
    with pytest.raises(StoreUnavailable, match="Read-only file system"):
        open_embedded(disk.path / "data")


def test_a_service_starts_on_a_read_only_disk_and_predicts(settings: Settings, disk: Disk) -> None:
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        adapt(web)
        before = predict(web, striped(2, 6, seed=9)).json()
    disk.remount("ro")
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        assert predict(web, striped(2, 6, seed=9)).json()["predictions"] == before["predictions"]
        assert web("GET", "/clients/line/history").status_code == 200
        assert status_and_code(adapt(web, image_seed=1)) == (503, "store_unavailable")


def adapt_over(http: httpx.Client, seed: int) -> httpx.Response:
    named, labels = samples({"fine": 6, "coarse": 20}, seed=seed)
    return http.post("/adapt", data={"client": "line", "labels": labels}, files=[("samples", item) for item in named])


def predict_over(http: httpx.Client) -> httpx.Response:
    images = [("images", (f"{i}.png", content)) for i, content in enumerate(striped(2, 6, seed=9))]
    return http.post("/predict", data={"client": "line"}, files=images)


def test_after_a_failed_sync_the_process_exits_and_the_next_one_has_everything_acknowledged(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    with serving("failing_disk.py", tmp_path, tiny_checkpoint) as (http, process):
        assert adapt_over(http, 0).json()["version"] == 1
        before = predict_over(http).json()
        (tmp_path / "failing").touch()
        assert status_and_code(adapt_over(http, 1)) == (503, "store_unavailable")
        assert process.wait(END_LIMIT_S) != 0
    (tmp_path / "failing").unlink()
    with serving("failing_disk.py", tmp_path, tiny_checkpoint) as (http, _):
        assert predict_over(http).json()["predictions"] == before["predictions"]
        assert adapt_over(http, 1).json()["version"] == 2
