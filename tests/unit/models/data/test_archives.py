"""Files of folders and archives: order, hidden files, limits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from models.data.archives import archive_key, read_files
from models.errors import DatasetUnavailable

FILES = {"b/2.png": b"two", "a/1.png": b"one", "a/c/3.png": b"three", "a-b/4.png": b"four"}
HIDDEN = {"__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x", "a/Thumbs.db": b"x", ".hidden/4.png": b"x"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {**FILES, **HIDDEN}.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "set"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as target:
        target.mkdir("a")
        for name, content in {**FILES, **HIDDEN}.items():
            target.writestr(name, content)
    return tmp_path / "set.zip"


def test_a_folder_and_an_archive_give_the_same_files_in_path_order(folder: Path, archive: Path) -> None:
    expected = [(name, FILES[name]) for name in sorted(FILES)]
    assert list(read_files(archive)) == expected
    assert list(read_files(folder)) == expected


def test_only_the_requested_files_are_read(folder: Path, archive: Path) -> None:
    for location in (folder, archive):
        assert list(read_files(location, only={"b/2.png"})) == [("b/2.png", b"two")]


def test_a_missing_location_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="does not exist"):
        list(read_files(tmp_path / "missing"))


def test_a_file_that_is_no_archive_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"not a zip")
    with pytest.raises(DatasetUnavailable, match="cannot be read as a"):
        list(read_files(tmp_path / "set.zip"))


def test_a_damaged_archive_member_is_rejected(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"three", b"throw"))
    with pytest.raises(DatasetUnavailable, match="undamaged"):
        list(read_files(archive))


def test_a_file_larger_than_allowed_is_rejected(folder: Path, archive: Path) -> None:
    for location in (folder, archive):
        with pytest.raises(DatasetUnavailable, match="has 5 bytes; at most 4"):
            list(read_files(location, max_file_bytes=4))


def test_the_cache_key_depends_on_the_content(folder: Path, archive: Path) -> None:
    for location in (folder, archive):
        assert archive_key(location) == archive_key(location)
    before = archive_key(archive), archive_key(folder)
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr("a/5.png", b"five")
    (folder / "a" / "5.png").write_bytes(b"five")
    assert archive_key(archive) != before[0]
    assert archive_key(folder) != before[1]
