"""Retention settings from the request to the files: samples and the number of versions."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from anyio import to_thread

from service.bootstrap import open_store
from service.domain.client import ClientSettings
from service.domain.version import LIVE
from service.errors import StoreUnavailable
from service.settings import Settings
from service.store.open_store import open_embedded
from service.store.version_store import VersionStore
from tests.generated import striped
from tests.in_process import Web
from tests.integration.store_child import CLIENT, publish
from tests.integration.test_api_service import adapt, predict, samples

KEEP_NONE = {"retain_samples": False}


def images_on_disk(settings: Settings) -> list[Path]:
    """Return the files of stored samples. Files of weights contain other tensor names."""
    blobs = (path for path in (settings.data / "blobs").rglob("*") if path.is_file())
    return [path for path in blobs if b'"image"' in path.read_bytes()[:200]]


def test_a_client_that_retains_no_samples_gets_predictions_and_has_no_image_on_the_disk(
    web: Web, settings: Settings
) -> None:
    web("PUT", "/clients/line/settings", json=KEEP_NONE)
    assert adapt(web).status_code == 201
    assert images_on_disk(settings) == []
    response = predict(web, striped(1, 6, seed=9) + striped(1, 20, seed=9)).json()
    assert [image["label"] for image in response["predictions"]] == ["fine", "coarse"]
    assert len(web("GET", "/clients/line/versions/1").json()["sample_list"]) == 8
    adapt(web, "other")
    assert len(images_on_disk(settings)) == 8


def test_without_samples_an_extension_is_rejected_and_a_replacement_works(web: Web) -> None:
    web("PUT", "/clients/line/settings", json=KEEP_NONE)
    adapt(web)
    rejected = adapt(web, classes={"broad": 30})
    assert (rejected.status_code, rejected.json()["code"]) == (409, "samples_not_kept")
    assert "mode=replace" in rejected.json()["detail"]
    replaced = adapt(web, classes={"fine": 6, "coarse": 20, "broad": 30}, mode="replace").json()
    assert (replaced["version"], len(replaced["classes"])) == (2, 3)


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "deleted and created again"])
def test_a_client_that_is_deleted_during_an_upload_gets_no_version_and_no_image_on_the_disk(
    web: Web, settings: Settings, again: bool
) -> None:
    web("PUT", "/clients/line/settings", json=KEEP_NONE)
    named, labels = samples({"fine": 6, "coarse": 20})
    fields = {"client": "line", "mode": "replace", "labels": labels}
    form = httpx.Request("POST", "http://line", data=fields, files=[("samples", item) for item in named])
    body = form.read()

    async def upload() -> AsyncIterator[bytes]:
        yield body[:1000]
        await to_thread.run_sync(web.services.clients.delete, "line")
        if again:
            await to_thread.run_sync(web.services.clients.update_settings, "line", ClientSettings())
        yield body[1000:]

    response = web("POST", "/adapt", content=upload(), headers={"Content-Type": form.headers["Content-Type"]})
    assert (response.status_code, response.json()["code"]) == (409, "client_deleted")
    assert images_on_disk(settings) == []
    assert [client["client"] for client in web("GET", "/clients").json()["clients"]] == ["line"] * again


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_client_that_stops_retaining_samples_loses_its_samples_and_keeps_its_versions(
    web: Web, settings: Settings, method: str
) -> None:
    adapt(web)
    adapt(web, "other")
    before = predict(web, striped(2, 6, seed=9)).json()["predictions"]
    assert len(images_on_disk(settings)) == 16
    web(method, "/clients/line/settings", json=KEEP_NONE)
    assert {path.parent.name for path in images_on_disk(settings)} == {"other"}
    assert predict(web, striped(2, 6, seed=9)).json()["predictions"] == before
    with open_store(settings) as store:
        assert store.check().whole
    assert adapt(web).json()["code"] == "samples_not_kept"


def test_an_extension_refers_to_stored_samples_and_does_not_write_them_again(web: Web, settings: Settings) -> None:
    """Storing an existing blob again resets its age, so an unchanged age shows that it was not stored again."""
    adapt(web)
    stored = images_on_disk(settings)
    for path in stored:
        os.utime(path, (1, 1))
    assert adapt(web, classes={"broad": 30}).json()["parent"] == 1
    assert [path.stat().st_mtime for path in stored] == [1] * 8
    assert len(images_on_disk(settings)) == 12
    with open_store(settings) as store:
        assert len(store.catalog.version("line", 2).draft.samples) == 12
        assert store.check().whole


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return open_embedded(tmp_path)


def test_samples_stored_before_the_setting_changed_are_not_published(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting changes while an adaptation runs: its samples are deleted, or its version is made without samples."""
    put_weights = store.put_weights

    def change_setting_first(*arguments: object) -> object:
        monkeypatch.undo()
        store.update_settings(CLIENT, ClientSettings(retain_samples=False))
        return put_weights(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "put_weights", change_setting_first)
    with store, pytest.raises(StoreUnavailable, match="send the request again"):
        publish(store, 1)
    with open_embedded(tmp_path) as again:
        publish(again, 1)
        assert not again.catalog.version(CLIENT, 1).draft.samples_kept
        assert [path.name for path in (tmp_path / "blobs" / CLIENT).iterdir()] == [
            again.catalog.version(CLIENT, 1).draft.weights_digest
        ]


def test_a_collection_keeps_the_last_versions_and_those_that_an_alias_points_at(store: VersionStore) -> None:
    with store:
        for i in range(6):
            publish(store, i)
            publish(store, i, client="line-2")
        store.catalog.move_alias(CLIENT, LIVE, 2, expected_revision=None)
        store.catalog.move_alias(CLIENT, "trusted", 1, expected_revision=None)
        store.update_settings(CLIENT, ClientSettings(keep_last=2))
        assert store.collect(grace_s=0.0).retired == 2
        assert [version.number for version in store.catalog.versions(CLIENT)] == [1, 2, 5, 6]
        assert len(store.catalog.versions("line-2")) == 6
        assert store.check().whole
        assert store.collect(grace_s=0.0).retired == 0
        assert store.catalog.roll_back(CLIENT, LIVE).version == 6
