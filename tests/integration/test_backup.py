"""Backup and restore: between all kinds of stores, while the store is in use, interrupted, and damaged."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service import bootstrap
from service.domain.client import ClientSettings
from service.domain.key import Grant, new_key, record_of
from service.domain.version import LIVE, AliasMove, Idempotency, Version
from service.errors import InvalidRequest, StoreUnavailable
from service.http.app import create_app
from service.settings import Settings
from service.store.blobs.local import LocalBlobs
from service.store.open_store import StoreLocation, open_embedded, open_keys, open_store
from service.store.ports import utc_now
from service.store.version_store import VersionStore
from tests.generated import striped
from tests.in_process import started
from tests.integration.store_child import CLIENT, publish
from tests.integration.test_api_service import adapt, predict
from tests.real_parts import ObjectServer

OTHER = "line-2"
Everything = dict[str, tuple[tuple[Version, ...], tuple[AliasMove, ...], ClientSettings]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VersionStore]:
    with open_embedded(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], StoreLocation]:
    def place(form: str) -> StoreLocation:
        if form == "embedded":
            return StoreLocation(tmp_path / f"store-{len(list(tmp_path.iterdir()))}")
        server: ObjectServer = request.getfixturevalue("objects")
        postgres, template = request.getfixturevalue("postgres"), request.getfixturevalue("catalog_template")
        name = postgres.new_database(template)
        request.addfinalizer(lambda: postgres.drop(name))
        return StoreLocation(tmp_path, postgres.url(name), server.url(server.new_bucket()))

    return place


def filled(store: VersionStore) -> VersionStore:
    for i in range(4):
        publish(store, i)
        publish(store, i, client=OTHER)
    store.catalog.roll_back(CLIENT, LIVE)
    store.delete_version(CLIENT, 1)
    store.update_settings(OTHER, ClientSettings(keep_last=9))
    return store


def everything(store: VersionStore) -> Everything:
    names = [client.name for client in store.catalog.clients()]
    return {
        name: (store.catalog.versions(name), store.catalog.history(name), store.catalog.settings(name))
        for name in names
    }


def blobs_in(folder: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in (folder / "blobs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("origin", ["embedded", "shared"])
@pytest.mark.parametrize("destination", ["embedded", "shared"])
def test_a_backup_is_restored_into_any_kind_of_store(
    places: Callable[[str], StoreLocation], folder: Path, origin: str, destination: str
) -> None:
    with open_store(places(origin)) as store:
        before = everything(filled(store))
        report = store.back_up(folder)
        assert (report.clients, report.versions, report.added) == (2, 7, report.blobs)
    with open_store(places(destination)) as restored:
        again = restored.restore(folder)
        assert (again.versions, again.blobs, again.damages) == (7, report.blobs, ())
        assert everything(restored) == before
        assert restored.check().whole
        assert publish(restored, 9) == (5, 6)
        assert restored.check().whole


def test_a_restored_store_gives_the_same_predictions(settings: Settings, tmp_path: Path) -> None:
    """Adapt, back up while others publish, lose the folder, restore, start again."""
    folder, images = tmp_path / "backup", striped(2, 6, seed=9) + striped(2, 20, seed=9)
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        adapt(web)
        before = predict(web, images).json()
        history = web("GET", "/clients/line/history").json()
        stop = threading.Event()
        with open_embedded(settings.data) as busy, ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(_publish_until, busy, stop)
            with bootstrap.open_store(settings) as store:
                reports = [store.back_up(folder) for _ in range(3)]
            stop.set()
            acknowledged = publishing.result()
    assert all(report.damages == () for report in reports)
    assert 0 < reports[0].versions <= reports[-1].versions <= acknowledged + 1
    shutil.rmtree(settings.data)
    with bootstrap.open_store(settings) as store:
        store.restore(folder)
        assert store.check().whole
        assert len(store.catalog.versions(OTHER)) == reports[-1].versions - 1
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        again = predict(web, images).json()
        assert {**again, "seconds": 0} == {**before, "seconds": 0}
        assert web("GET", "/clients/line/history").json() == history
        assert adapt(web, classes={"broad": 30}).json()["version"] == 2


def _publish_until(store: VersionStore, stop: threading.Event) -> int:
    made = 0
    while made < 3 or not stop.is_set():
        made, _ = publish(store, made, client=OTHER)
        if made % 4 == 0:
            store.delete_version(OTHER, made - 2)
    return made


def test_the_next_backup_adds_new_data_and_deletes_erased_data(store: VersionStore, folder: Path) -> None:
    filled(store)
    number, _ = publish(store, 4, client=OTHER)  # no other version has its weights
    erased = store.catalog.version(OTHER, number).draft
    store.back_up(folder)
    assert store.back_up(folder).added == 0
    publish(store, 17)
    store.delete_client(OTHER)
    report = store.back_up(folder)
    assert (report.clients, report.versions) == (1, 4)
    assert report.added == 3
    assert {name.split("/")[0] for name in blobs_in(folder)} == {CLIENT}
    assert len(list(folder.glob("catalog-*"))) == 1
    catalog = next(folder.glob("catalog-*")).read_bytes()
    assert erased.weights_digest.encode() not in catalog


def test_api_keys_and_idempotency_keys_are_restored(tmp_path: Path, folder: Path) -> None:
    origin, destination = StoreLocation(tmp_path / "origin"), StoreLocation(tmp_path / "destination")
    record, fresh = (record_of(new_key(), Grant(name, ("predict",), ("*",)), utc_now()) for name in ("old", "new"))
    with open_keys(origin) as keys, open_store(origin) as store:
        keys.add(record)
        publish(store, 1)
        store.back_up(folder)
    with open_keys(destination) as keys, open_store(destination) as store:
        keys.add(fresh)
        store.restore(folder)
        assert set(keys.all()) == {record, fresh}
        assert store.catalog.recall(CLIENT, Idempotency("never", "0" * 64)) is None


def test_an_interrupted_backup_keeps_the_previous_one_and_is_completed_by_the_next(
    store: VersionStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store).back_up(folder)
    old = everything(store)
    for client in (CLIENT, OTHER):
        store.put_weights(client, {}, {})
        publish(store, 31, client=client)
        publish(store, 40, client=client)
    put, calls = LocalBlobs.put, iter([False, True])

    def cut_off(self: LocalBlobs, space: str, contents: Any) -> tuple[str, ...]:
        if next(calls):
            raise KeyboardInterrupt
        return put(self, space, contents)

    with monkeypatch.context() as failing:
        failing.setattr(LocalBlobs, "put", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.back_up(folder)
    (folder / ".unfinished-killed").mkdir()
    with open_embedded(tmp_path / "restored") as restored:
        restored.restore(folder)
        assert everything(restored) == old
    taken_up = store.back_up(folder)
    assert 0 < taken_up.added < 4
    assert not list(folder.glob(".unfinished*"))


def test_a_version_deleted_while_its_blobs_are_copied_is_not_in_the_backup(
    store: VersionStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, 1, aliases=())
    publish(store, 3)
    get = store._blobs.get

    def deleted_first(space: str, digest: str) -> bytes:
        monkeypatch.undo()
        store.delete_version(CLIENT, 1)
        return get(space, digest)

    monkeypatch.setattr(store._blobs, "get", deleted_first)
    report = store.back_up(folder)
    assert (report.versions, report.damages) == (1, ())
    assert len(blobs_in(folder)) == report.blobs


def test_a_backup_is_not_restored_into_a_store_with_clients(store: VersionStore, folder: Path) -> None:
    before = everything(filled(store))
    store.back_up(folder)
    with pytest.raises(InvalidRequest, match="holds 2 clients"):
        store.restore(folder)
    assert everything(store) == before


def test_an_interrupted_restore_can_be_repeated(
    store: VersionStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store).back_up(folder)
    with open_embedded(tmp_path / "restored") as restored:
        with monkeypatch.context() as failing:
            failing.setattr(restored.catalog, "load", lambda path: (_ for _ in ()).throw(StoreUnavailable("full")))
            with pytest.raises(StoreUnavailable):
                restored.restore(folder)
        assert restored.catalog.clients() == ()
        assert restored.restore(folder).added == 0
        assert everything(restored) == everything(store)


def test_a_folder_without_a_backup_is_rejected(store: VersionStore, folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no backup in"):
        store.restore(folder)
    filled(store).back_up(folder)
    said = json.loads((folder / "backup.json").read_text())
    (folder / "backup.json").write_text(json.dumps({**said, "format": 2}))
    with pytest.raises(InvalidRequest, match="this release reads format 1"):
        store.restore(folder)


def test_two_backups_into_one_folder_do_not_run_at_once(
    store: VersionStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, 1)
    export = store.catalog.export

    def while_another_runs(path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="another backup"):
            store.back_up(folder)
        export(path)

    monkeypatch.setattr(store.catalog, "export", while_another_runs)
    assert store.back_up(folder).versions == 1


def test_a_folder_that_cannot_be_written_is_reported(store: VersionStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be written to"):
        store.back_up(tmp_path / "file" / "backup")


@pytest.mark.parametrize("emptied", [False, True], ids=["another store", "an emptied store"])
def test_a_backup_is_replaced_by_another_or_an_emptied_store_only_on_request(
    store: VersionStore, folder: Path, tmp_path: Path, emptied: bool
) -> None:
    filled(store).back_up(folder)
    before = (blobs_in(folder), (folder / "backup.json").read_bytes())
    with open_embedded(tmp_path / "other") as other:
        if not emptied:
            publish(other, 1)
        with pytest.raises(InvalidRequest, match="2 clients, and this store has none of them"):
            other.back_up(folder)
        assert (blobs_in(folder), (folder / "backup.json").read_bytes()) == before
        assert other.back_up(folder, replace=True).clients == (0 if emptied else 1)


def test_a_store_that_was_restored_goes_on_with_its_backup(store: VersionStore, folder: Path, tmp_path: Path) -> None:
    filled(store).back_up(folder)
    with open_embedded(tmp_path / "restored") as restored:
        restored.restore(folder)
        publish(restored, 17)
        assert restored.back_up(folder).versions == 8


def test_a_damaged_backup_is_replaced_only_on_request(store: VersionStore, folder: Path) -> None:
    filled(store).back_up(folder)
    next(folder.glob("catalog-*")).write_bytes(b"damaged")
    with pytest.raises(InvalidRequest, match="it is not known whether it is of this store"):
        store.back_up(folder)
    assert store.back_up(folder, replace=True).clients == 2


def test_a_folder_keeps_as_many_backups_as_asked_for(store: VersionStore, folder: Path, tmp_path: Path) -> None:
    states = []
    for i in range(4):
        publish(store, 50 + 2 * i)
        states.append(everything(store))
        assert store.back_up(folder, keep=3).generations == min(i + 1, 3)
    assert len(list(folder.glob("catalog-*"))) == 3
    for generation, state in enumerate(reversed(states[1:])):
        with open_embedded(tmp_path / f"restored-{generation}") as restored:
            restored.restore(folder, generation=generation)
            assert everything(restored) == state
            assert restored.check().whole
    store.delete_version(CLIENT, 1)
    assert store.back_up(folder).generations == 1
    assert len(list(folder.glob("catalog-*"))) == 1


def test_the_newest_backup_without_damage_is_kept(store: VersionStore, folder: Path, tmp_path: Path) -> None:
    filled(store).back_up(folder)
    whole = everything(store)
    publish(store, 17)
    lost = store.catalog.version(CLIENT, 5).draft.weights_digest
    (tmp_path / "data" / "blobs" / CLIENT / lost).unlink()
    store.delete_client(OTHER)
    report = store.back_up(folder)
    assert (len(report.damages), report.generations) == (1, 2)
    with open_embedded(tmp_path / "restored") as restored:
        assert restored.restore(folder, generation=1).damages == ()
        assert everything(restored) == whole
    publish(store, 17)
    assert store.back_up(folder).generations == 1


def test_a_backup_into_the_folder_of_a_store_is_rejected(store: VersionStore, tmp_path: Path) -> None:
    publish(store, 1)
    with pytest.raises(InvalidRequest, match="is the folder of a store"):
        store.back_up(tmp_path / "data")
