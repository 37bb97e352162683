"""Folders of class folders: layouts, copies, litter, unreadable files, origins."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.data.folders import FolderRules, open_folder
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


def test_each_folder_is_a_class_named_after_it(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path / "parts", PLAIN), SPEC)
    assert classes.name == "parts"
    assert classes.class_names == ("clean", "dent")
    assert [classes.count(0), classes.count(1)] == [3, 2]
    assert torch.equal(classes.images(1)[0], fit_to_side(decode(PLAIN["dent/1.png"]), SPEC))
    assert classes.file_names[1] == ("dent/1.png", "dent/2.jpg")
    assert classes.left_out == ()


@pytest.mark.parametrize("wrapper", ["", "parts/", "photos/of/parts/"])
def test_an_archive_and_its_wrapper_folders_change_nothing(tmp_path: Path, wrapper: str) -> None:
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


def test_a_file_outside_the_class_folders_is_left_out_and_named(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, {**PLAIN, "README.txt": b"about these parts"}), SPEC)
    assert classes.class_names == ("clean", "dent")
    assert classes.left_out == ("README.txt lies in no class folder.",)


def test_copies_within_a_class_are_dropped_and_counted(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, {**PLAIN, "dent/copy.png": PLAIN["dent/1.png"]}), SPEC)
    assert classes.count(1) == 2
    assert classes.duplicates == 1


def test_a_picture_in_two_classes_belongs_to_neither(tmp_path: Path) -> None:
    files = {**PLAIN, "clean/4.png": PLAIN["dent/1.png"], "dent/3.png": picture(6)}
    classes = open_folder(write(tmp_path, files), SPEC)
    assert classes.file_names[1] == ("dent/2.jpg", "dent/3.png")
    assert classes.duplicates == 2
    assert classes.left_out[0] == "clean/4.png lies in several classes: clean, dent."


def test_a_file_that_is_no_image_ends_the_reading_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ImageFormatUnsupported, match=r"dent/notes\.txt"):
        open_folder(write(tmp_path, {**PLAIN, "dent/notes.txt": b"hit by a forklift"}), SPEC)


def test_a_file_that_is_no_image_can_be_skipped(tmp_path: Path) -> None:
    files = {**PLAIN, "dent/notes.txt": b"hit by a forklift"}
    classes = open_folder(write(tmp_path, files), SPEC, FolderRules(unreadable="skip"))
    assert classes.count(1) == 2
    assert "dent/notes.txt" in classes.left_out[0]


def test_a_class_with_a_single_image_is_left_out_and_named(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, {**PLAIN, "rust/1.png": picture(7)}), SPEC)
    assert classes.class_names == ("clean", "dent")
    assert classes.left_out == ("Class rust has 1 image; 2 are needed.",)


@pytest.mark.parametrize(
    "files", [{}, {"dent/1.png": picture(1), "dent/2.png": picture(2)}], ids=["empty", "one class"]
)
def test_fewer_than_two_classes_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(DatasetUnavailable, match="two are needed: one folder a class"):
        open_folder(write(tmp_path, files), SPEC)


def test_a_missing_folder_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="there is nothing at"):
        open_folder(tmp_path / "missing", SPEC)


CROPS = {
    "red/slide_01_a.png": picture(1),
    "red/slide_01_b.png": picture(2),
    "red/slide_02_a.png": picture(3),
    "white/slide_01_c.png": picture(4),
    "white/other.png": picture(5),
}


def test_images_of_one_source_share_an_origin_over_all_classes(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, CROPS), SPEC, FolderRules(group_pattern=r"^(slide_\d+)_"))
    assert classes.origins(0) == ("slide_01", "slide_01", "slide_02")
    assert classes.origins(1) == ("white/other.png", "slide_01")


def test_without_a_pattern_every_image_is_its_own_origin(tmp_path: Path) -> None:
    classes = open_folder(write(tmp_path, CROPS), SPEC)
    origins = [*classes.origins(0), *classes.origins(1)]
    assert len(set(origins)) == 5


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="matches no file name"):
        open_folder(write(tmp_path, CROPS), SPEC, FolderRules(group_pattern="BloodImage"))
