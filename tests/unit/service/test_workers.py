"""The folder that workers share, and the place of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import workers
from service.errors import InvalidSettings
from service.workers import WorkerPlace, worker_folder


def test_workers_get_different_places_and_the_next_one_takes_the_first_that_is_free(tmp_path: Path) -> None:
    first, second = WorkerPlace(tmp_path), WorkerPlace(tmp_path)
    assert (first.number, second.number, list(second.free())) == (0, 1, [])
    first.leave(last_deletes=False)
    assert list(second.free()) == [0]
    assert WorkerPlace(tmp_path).number == 0


def test_too_many_workers_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PLACES", 1)
    place = WorkerPlace(tmp_path)
    with pytest.raises(InvalidSettings, match="all 1 places"):
        WorkerPlace(tmp_path)
    assert place.number == 0


def test_the_last_worker_deletes_the_folder_of_a_dead_supervisor(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    first, last = WorkerPlace(folder), WorkerPlace(folder)
    first.leave(last_deletes=True)
    assert folder.exists()
    last.leave(last_deletes=True)
    assert not folder.exists()


def test_the_folder_belongs_to_this_user_and_is_deleted(tmp_path: Path) -> None:
    with worker_folder() as folder:
        WorkerPlace(folder)
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
