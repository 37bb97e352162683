"""Folders of class folders: layouts, duplicates, unreadable files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.data.folders import open_folder
from models.errors import DatasetUnavailable, ImageFormatUnsupported
from models.images.preprocessing import ImageConfig, decode, fit_to_side
from tests.unit.models.pictures import encoded, scene

SPEC = ImageConfig(channels=3, side=16)


def picture(seed: int, file_format: str = "PNG") -> bytes:
    return encoded(Image.fromarray(scene(20, 18, seed)), file_format)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


PLAIN = {
    "dent/1.png": picture(1),
    "dent/2.jpg": picture(2, "JPEG"),
    "clean/1.bmp": picture(3, "BMP"),
    "clean/2.tif": picture(4, "TIFF"),
    "clean/3.webp": picture(5, "WEBP"),
}


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path / "parts", PLAIN), SPEC)
    assert classes.name == "parts"
    assert classes.class_names == ("clean", "dent")
    assert [classes.count(0), classes.count(1)] == [3, 2]
    assert torch.equal(classes.images(1)[0], fit_to_side(decode(PLAIN["dent/1.png"]), SPEC))


@pytest.mark.parametrize("wrapper", ["", "parts/", "photos/of/parts/"])
def test_an_archive_gives_the_same_classes_regardless_of_wrapper_folders(tmp_path: Path, wrapper: str) -> None:
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for name, content in PLAIN.items():
            archive.writestr(wrapper + name, content)
        archive.writestr("__MACOSX/parts/dent/._1.png", b"resource fork")
    zipped = open_folder(tmp_path / "parts.zip", SPEC)
    plain = open_folder(write(tmp_path / "parts", PLAIN), SPEC)
    assert zipped.class_names == plain.class_names
    assert all(torch.equal(zipped.images(index), plain.images(index)) for index in range(2))


def test_deeper_folders_are_part_of_the_class_name(tmp_path: Path) -> None:
    files = {f"{side}/{kind}/{index}.png": picture(10 * ord(side) + ord(kind) + 3 * index)
             for side in "LR" for kind in "ab" for index in range(2)}  # fmt: skip
    assert open_folder(write(tmp_path, files), SPEC).class_names == ("L/a", "L/b", "R/a", "R/b")


def test_a_file_outside_the_class_folders_is_skipped(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, {**PLAIN, "README.txt": b"about these parts"}), SPEC)
    assert classes.class_names == ("clean", "dent")
    assert [classes.count(0), classes.count(1)] == [3, 2]


def test_copies_within_a_class_are_dropped(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, {**PLAIN, "dent/copy.png": PLAIN["dent/1.png"]}), SPEC)
    assert classes.count(1) == 2


def test_an_image_in_two_classes_is_in_neither(tmp_path: Path) -> None:
    files = {**PLAIN, "clean/4.png": PLAIN["dent/1.png"], "dent/3.png": picture(6)}
    classes = open_folder(write(tmp_path, files), SPEC)
    assert [classes.count(0), classes.count(1)] == [3, 2]
    assert torch.equal(classes.images(1)[0], fit_to_side(decode(PLAIN["dent/2.jpg"]), SPEC))
    assert torch.equal(classes.images(1)[1], fit_to_side(decode(files["dent/3.png"]), SPEC))


def test_a_file_that_is_no_image_is_rejected_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ImageFormatUnsupported, match=r"dent/notes\.txt"):
        open_folder(write(tmp_path, {**PLAIN, "dent/notes.txt": b"hit by a forklift"}), SPEC)


def test_a_class_with_a_single_image_is_skipped(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, {**PLAIN, "rust/1.png": picture(7)}), SPEC)
    assert classes.class_names == ("clean", "dent")


@pytest.mark.parametrize(
    "files", [{}, {"dent/1.png": picture(1), "dent/2.png": picture(2)}], ids=["empty", "one class"]
)
def test_fewer_than_two_classes_are_rejected(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(DatasetUnavailable, match="at least two are needed: one folder per class"):
        open_folder(write(tmp_path, files), SPEC)


def test_the_error_names_skipped_files_and_classes(tmp_path: Path) -> None:
    files = {"README.txt": b"x", "dent/1.png": picture(1), "clean/1.png": picture(1), "rust/1.png": picture(2)}
    with pytest.raises(DatasetUnavailable) as raised:
        open_folder(write(tmp_path, files), SPEC)
    assert "README.txt is in no class folder." in str(raised.value)
    assert "clean/1.png is in several classes: clean, dent." in str(raised.value)
    assert "Class rust has fewer than 2 images." in str(raised.value)


def test_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="does not exist"):
        open_folder(tmp_path / "missing", SPEC)
