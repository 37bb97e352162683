"""The order in which a publish and a deletion write to the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from service.store.open_store import open_embedded
from service.store.version_store import VersionStore
from tests.integration.store_child import CLIENT, publish


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VersionStore]:
    with open_embedded(tmp_path) as opened:
        yield opened


class Notes:
    """Records the calls of the store to the disk, in order; equal calls in a row count once."""

    def __init__(self, blobs: Path) -> None:
        self.calls: list[str] = []
        self._blobs = blobs

    def note(self, call: str) -> None:
        if self.calls[-1:] != [call]:
            self.calls.append(call)

    def sync(self, handle: int) -> None:
        depth = len(Path(f"/proc/self/fd/{handle}").readlink().relative_to(self._blobs).parts)
        self.note(f"sync {('root', 'folder', 'file')[depth]}")

    def unlink(self, path: Path, **_named: object) -> None:
        if not path.name.startswith(".unfinished-"):
            self.note("unlink")

    def commit(self, connection: Connection) -> None:
        if connection.get_execution_options().get("anole_begin") == "BEGIN IMMEDIATE":
            self.note("commit")


@pytest.fixture
def calls(store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    notes = Notes(tmp_path / "blobs")

    def noted(real: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            note(*args, **named)
            return real(*args, **named)

        return call

    monkeypatch.setattr(os, "fsync", noted(os.fsync, notes.sync))
    monkeypatch.setattr(Path, "replace", noted(Path.replace, lambda *_: notes.note("rename")))
    monkeypatch.setattr(Path, "unlink", noted(Path.unlink, notes.unlink))
    monkeypatch.setattr(Path, "is_file", noted(Path.is_file, lambda _: notes.note("look")))
    event.listen(Engine, "commit", notes.commit)
    yield notes.calls
    event.remove(Engine, "commit", notes.commit)


def test_blobs_are_durable_before_the_row_is_committed(store: VersionStore, calls: list[str]) -> None:
    publish(store, 0)
    durable = ["sync file", "rename", "sync folder", "sync root"]
    assert calls == [*durable, *durable, "look", "commit"]


def test_existing_blobs_are_synced_before_a_new_row_needs_them(store: VersionStore, calls: list[str]) -> None:
    publish(store, 0)
    calls.clear()
    publish(store, 0)
    assert calls == ["sync folder", "sync root"] * 2 + ["look", "commit"]


def test_rows_are_deleted_durably_before_their_blobs(store: VersionStore, calls: list[str]) -> None:
    publish(store, 0, aliases=())
    calls.clear()
    store.delete_version(CLIENT, 1)
    assert calls == ["commit", "unlink", "sync folder", "commit"]
    calls.clear()
    publish(store, 0)
    calls.clear()
    store.delete_client(CLIENT)
    assert calls == ["commit", "unlink", "sync folder", "sync root", "commit"]
