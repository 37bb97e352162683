"""Files out of folders and archives: order, litter, limits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from models.data.archives import archive_key, read_files
from models.errors import DatasetUnavailable

FILES = {"b/2.png": b"two", "a/1.png": b"one", "a/c/3.png": b"three", "a-b/4.png": b"four"}
LITTER = {"__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x", "a/Thumbs.db": b"x", ".hidden/4.png": b"x"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {**FILES, **LITTER}.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "set"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as target:
        target.mkdir("a")
        for name, content in {**FILES, **LITTER}.items():
            target.writestr(name, content)
    return tmp_path / "set.zip"


def test_folder_and_archive_give_the_same_files_in_the_order_of_their_paths(folder: Path, archive: Path) -> None:
    expected = [(name, FILES[name]) for name in sorted(FILES)]
    assert list(read_files(archive)) == expected
    assert list(read_files(folder)) == expected


def test_nothing_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="there is nothing at"):
        list(read_files(tmp_path / "missing"))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"not a zip")
    with pytest.raises(DatasetUnavailable, match="cannot be read as a"):
        list(read_files(tmp_path / "set.zip"))


def test_a_damaged_file_inside_is_refused(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"three", b"throw"))
    with pytest.raises(DatasetUnavailable, match="undamaged"):
        list(read_files(archive))


def test_a_file_larger_than_allowed_is_refused_before_it_is_unpacked(folder: Path, archive: Path) -> None:
    for location in (folder, archive):
        with pytest.raises(DatasetUnavailable, match="has 5 bytes; at most 4"):
            list(read_files(location, max_file_bytes=4))


def test_the_key_follows_the_content(folder: Path, archive: Path) -> None:
    for location in (folder, archive):
        assert archive_key(location) == archive_key(location)
    before = archive_key(archive), archive_key(folder)
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr("a/5.png", b"five")
    (folder / "a" / "5.png").write_bytes(b"five")
    assert archive_key(archive) != before[0]
    assert archive_key(folder) != before[1]
