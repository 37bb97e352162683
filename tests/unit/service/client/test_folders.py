"""Folders with one sub-folder per class: what is sent, and what is left out and why."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from service.client import InvalidInput, read_class_folders, read_samples

PNG = b"\x89PNG"


def write(root: Path, *names: str | bytes) -> Path:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return root


def skipped(folder: Path) -> dict[str, str]:
    return {each.path: each.reason for each in read_class_folders(folder).skipped}


def test_a_folder_with_one_class_is_read(tmp_path: Path) -> None:
    found = read_class_folders(str(write(tmp_path, "dent/2.png", "dent/1.png")))
    assert [(sample.label, sample.name) for sample in found.samples] == [("dent", "1.png"), ("dent", "2.png")]
    assert found.skipped == ()


@pytest.mark.parametrize("name", ["Thumbs.db", "THUMBS.DB", "Desktop.ini", "desktop.INI", "ehthumbs.db"])
def test_files_of_operating_systems_are_skipped_in_any_case(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, "good/1.png", f"good/{name}", name)
    assert skipped(folder) == dict.fromkeys((name, f"good/{name}"), "made by an operating system")


@pytest.mark.parametrize("name", ["@eaDir", "@EADIR", "__MACOSX", "#recycle"])
def test_folders_of_network_drives_are_no_classes(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, "good/1.png", f"{name}/1.png", f"good/{name}/1.png")
    assert set(skipped(folder)) == {name, f"good/{name}"}
    assert len(read_class_folders(folder).samples) == 1


def test_hidden_files_nested_folders_and_files_beside_the_classes_are_skipped(tmp_path: Path) -> None:
    folder = write(tmp_path, "good/1.png", "good/.DS_Store", "good/monday/1.png", "notes.txt", ".git/config")
    assert skipped(folder) == {
        ".git": "hidden",
        "notes.txt": "not in a class folder; move it into one",
        "good/.DS_Store": "hidden",
        "good/monday": "a folder inside a class folder; move its images up",
    }


def test_names_that_are_not_utf8_are_skipped_and_shown_with_escapes(tmp_path: Path) -> None:
    folder = write(tmp_path, "good/1.png", b"good/\xff.png", b"sch\xf6n/1.png", "schön/1.png")
    reason = "the name is not UTF-8; rename it"
    assert skipped(folder) == {r"good/\xff.png": reason, r"sch\xf6n": reason}
    assert {sample.label for sample in read_class_folders(folder).samples} == {"good", "schön"}


def test_links_to_nothing_and_files_that_are_no_files_are_skipped(tmp_path: Path) -> None:
    folder = write(tmp_path, "good/1.png")
    (folder / "good" / "gone.png").symlink_to(folder / "elsewhere.png")
    (folder / "good" / "loop.png").symlink_to(folder / "good" / "loop.png")
    (folder / "bad").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "good" / "pipe.png")
    assert skipped(folder) == {
        "bad": "a link to nothing",
        "good/gone.png": "a link to nothing",
        "good/loop.png": "a link to nothing",
        "good/pipe.png": "not a regular file",
    }


def test_links_to_images_and_classes_are_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "parts", "good/1.png")
    (folder / "good" / "2.png").symlink_to(folder / "good" / "1.png")
    (folder / "bad").symlink_to(write(tmp_path / "bad", "3.png"))
    assert [sample.name for sample in read_class_folders(folder).samples] == ["3.png", "1.png", "2.png"]


def test_what_a_program_leaves_out_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anole.client"):
        assert len(read_samples(write(tmp_path, "good/1.png", "good/thumbs.db"))) == 1
    assert caplog.messages == ["skipped good/thumbs.db: made by an operating system"]


def test_a_folder_whose_name_is_not_utf8_can_be_named_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_class_folders(tmp_path / os.fsdecode(b"\xff"))
    assert r"/\xff is not a folder" in str(caught.value)
    str(caught.value).encode()
