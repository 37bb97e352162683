"""Datasets by name: classes for validation."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from models.data.registry import open_dataset
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig

SPEC = ImageConfig(channels=1, side=28)


def write_classes(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / f"class{number:02}").mkdir(parents=True)
        for take in range(2):
            Image.new("L", (28, 28), 10 * number + take).save(folder / f"class{number:02}" / f"{take}.png")
    return folder


def test_a_fifth_of_a_folders_classes_validates_and_the_rest_trains(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "parts", 15)
    data = open_dataset(f"folder:{folder}:val", SPEC, None, tmp_path)
    assert len(data.test) == 3
    assert sorted(data.train.class_names + data.test.class_names) == [f"class{number:02}" for number in range(15)]
    again = open_dataset(f"folder:{folder}:val", SPEC, None, tmp_path)
    assert again.test.class_names == data.test.class_names


def test_a_folder_with_three_classes_has_none_to_validate_on(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "parts", 3)
    with pytest.raises(DatasetUnavailable, match="at least 4 are needed"):
        open_dataset(f"folder:{folder}:val", SPEC, None, tmp_path)


def test_textures_validate_on_other_lines_than_they_test_on() -> None:
    validation, test = (open_dataset(name, SPEC, None, Path()).test for name in ("textures:val", "textures"))
    assert not (validation.images(0)[0] == test.images(0)[0]).all()
