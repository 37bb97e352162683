"""Which adapters a store is opened with, and how invalid URLs are rejected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import InvalidSettings, StoreUnavailable
from service.store.blobs.local import LocalBlobs
from service.store.open_store import StoreLocation, open_keys, open_store
from tests.integration.store_child import publish


def test_without_urls_the_store_is_in_its_folder(tmp_path: Path) -> None:
    with open_store(StoreLocation(tmp_path / "data")) as store:
        publish(store, 1)
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if "-" not in path.name) == [
        "blobs",
        "catalog.sqlite3",
    ]


def test_file_urls_name_the_catalog_and_the_blobs(tmp_path: Path) -> None:
    place = StoreLocation(tmp_path / "data", f"sqlite:///{tmp_path}/rows/catalog", f"file://{tmp_path}/objects")
    with open_store(place) as store:
        publish(store, 1)
        assert store.check().whole
    assert (tmp_path / "rows" / "catalog").is_file()
    assert [path.name for path in (tmp_path / "objects").iterdir()] == ["line-1"]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "url",
    ["mysql://anole:hunter2@db/anole", "anole:hunter2", "sqlite://", "sqlite:///:memory:", "postgresql:hunter2@x"],
)
def test_an_unsupported_catalog_url_is_rejected_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettings, match="postgresql://USER:PASSWORD@HOST/DATABASE") as error:
        open_store(StoreLocation(tmp_path, catalog_url=url))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "gs://bucket/x",
        "bucket",
        "s3://",
        "s3://key:hunter2@bucket",
        "s3://bucket?secret=hunter2",
        "file://host/x",
        "file:",
    ],
)
def test_an_unsupported_blobs_url_is_rejected_without_its_secrets(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettings, match="s3://BUCKET/PREFIX") as error:
        open_store(StoreLocation(tmp_path, blobs_url=url))
    assert "hunter2" not in str(error.value)


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://anole:hunter2@/anole?host={tmp_path}"
    with pytest.raises(StoreUnavailable, match="anole:\\*\\*\\*@") as error:
        open_store(StoreLocation(tmp_path, catalog_url=url))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_store_whose_catalog_was_lost_does_not_open_as_an_empty_one(tmp_path: Path, how: str) -> None:
    with open_store(StoreLocation(tmp_path)) as store:
        publish(store, 1)
        store.back_up(tmp_path / "backup")
    for path in tmp_path.glob("catalog.sqlite3*"):
        path.unlink()
    if how == "empty":
        (tmp_path / "catalog.sqlite3").touch()
    stored = sorted((tmp_path / "blobs").rglob("*"))
    for opened in (open_store, open_keys):
        with pytest.raises(StoreUnavailable, match="put the catalog back, or restore a backup"):
            opened(StoreLocation(tmp_path))
        with pytest.raises(StoreUnavailable, match="there is no store in"):
            opened(StoreLocation(tmp_path), missing="reject")
    assert sorted((tmp_path / "blobs").rglob("*")) == stored
    with open_store(StoreLocation(tmp_path), missing="restore") as store:
        assert store.restore(tmp_path / "backup").versions == 1
        assert store.check().whole


def test_the_other_process_that_created_the_catalog_first_does_not_look_like_a_lost_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the tables and the look at the blobs, another process creates both."""
    spaces = LocalBlobs.spaces

    def after_another_process(self: LocalBlobs) -> Iterator[str]:
        monkeypatch.undo()
        with open_store(StoreLocation(tmp_path)) as other:
            publish(other, 1)
        return spaces(self)

    monkeypatch.setattr(LocalBlobs, "spaces", after_another_process)
    with open_store(StoreLocation(tmp_path)) as store:
        assert len(store.catalog.clients()) == 1
