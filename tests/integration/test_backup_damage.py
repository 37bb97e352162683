"""Backup and restore when the store or the backup is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.errors import InvalidRequest, StoreUnavailable, VersionCorrupt
from service.store.open_store import CATALOG_FILE, open_embedded
from service.store.version_store import VersionStore
from tests.integration.store_child import CLIENT
from tests.integration.test_backup import everything, filled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VersionStore]:
    with open_embedded(tmp_path / "data") as opened:
        yield opened


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_blob_is_reported_and_everything_else_is_backed_up(
    store: VersionStore, folder: Path, tmp_path: Path
) -> None:
    filled(store)
    lost = store.catalog.version(CLIENT, 2).draft.weights_digest
    flip(tmp_path / "data" / "blobs" / CLIENT / lost)
    report = store.back_up(folder)
    assert [(damage.client, damage.digest) for damage in report.damages] == [(CLIENT, lost)]
    with open_embedded(tmp_path / "restored") as restored:
        again = restored.restore(folder)
        assert [damage.digest for damage in again.damages] == [lost]
        assert everything(restored) == everything(store)
        assert {damage.digest for damage in restored.check().damages} == {lost}


def test_a_blob_damaged_since_the_last_backup_is_kept_from_that_backup(
    store: VersionStore, folder: Path, tmp_path: Path
) -> None:
    filled(store).back_up(folder)
    flip(tmp_path / "data" / "blobs" / CLIENT / store.catalog.version(CLIENT, 2).draft.weights_digest)
    assert store.back_up(folder).damages == ()
    with open_embedded(tmp_path / "restored") as restored:
        restored.restore(folder)
        assert restored.check().whole


def test_a_damaged_catalog_never_replaces_a_good_backup(store: VersionStore, folder: Path, tmp_path: Path) -> None:
    filled(store).back_up(folder)
    before = (folder / "backup.json").read_bytes()
    with closing(sqlite3.connect(tmp_path / "data" / CATALOG_FILE)) as behind:
        behind.execute("UPDATE versions SET seed = seed + 1 WHERE number = 2")
        behind.commit()
    with pytest.raises(VersionCorrupt, match="does not match its checksum"):
        store.back_up(folder)
    assert (folder / "backup.json").read_bytes() == before
    with open_embedded(tmp_path / "restored") as restored:
        restored.restore(folder)
        assert restored.check().whole


@pytest.mark.parametrize("part", ["blobs/*/*", "catalog-*", "backup.json"])
@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_damaged_backup_is_rejected_before_anything_is_recorded(
    store: VersionStore, folder: Path, tmp_path: Path, part: str, how: str
) -> None:
    filled(store).back_up(folder)
    victim = sorted(folder.glob(part))[0]
    if how == "gone":
        victim.unlink()
    else:
        flip(victim)
    with open_embedded(tmp_path / "restored") as restored:
        with pytest.raises((VersionCorrupt, InvalidRequest, StoreUnavailable)):
            restored.restore(folder)
        assert restored.catalog.clients() == ()
