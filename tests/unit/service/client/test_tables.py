"""Tables of what comes with images."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.client import InvalidInput, LabelledFile
from service.client.files import Image
from service.client.tables import Row, images_with_rows, read_table, samples_with_rows


def table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_has_a_text_for_each_file(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, '\ufefffile,text\na.png,"drive side, shift 2"\nb.png,\n'))
    assert rows == {"a.png": Row(text="drive side, shift 2"), "b.png": Row()}


def test_a_table_has_numbers_for_each_file(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, "temperature,file,pressure\n21.5,a.png,1e-3\n,b.png,\n"))
    assert rows == {"a.png": Row(vector=(21.5, 0.001)), "b.png": Row()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\na.png,left\n", "it needs 'file'"),
        ("file\na.png\n", "it needs 'file', and either 'text'"),
        ("file,text,pressure\na.png,left,1\n", "the columns file, text, pressure"),
        ("", "the columns none"),
        ("file,text\na.png,left\na.png,right\n", "two lines for 'a.png'"),
        ("file,text\na.png,left,top\n", "line 2 of"),
        ("file,text\na.png\n", "line 2 of"),
        ("file,pressure\na.png,high\n", "line 2 of"),
        ('file,text\na.png,"left\n', "is not a CSV file"),
    ],
)
def test_a_table_of_another_form_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_table(table(tmp_path, text))


def test_rows_name_samples_by_class_and_name_or_by_name() -> None:
    samples = [
        LabelledFile("pit", "1.png", b""),
        LabelledFile("dent", "1.png", b""),
        LabelledFile("dent", "2.png", b""),
    ]
    found = samples_with_rows(samples, {"dent/1.png": Row(text="left"), "2.png": Row(vector=(1.0,))})
    assert [(sample.text, sample.vector) for sample in found] == [(None, None), ("left", None), (None, (1.0,))]


def test_rows_name_images_by_path_or_by_name() -> None:
    found = images_with_rows(
        [Path("in/1.png"), Path("2.png")], {"in/1.png": Row(text="left"), "2.png": Row(text="top")}
    )
    assert found == [Image(Path("in/1.png"), "left"), Image(Path("2.png"), "top")]


def test_a_row_without_an_image_is_rejected() -> None:
    with pytest.raises(InvalidInput, match=r"a line for 'c\.png', and no image has that name"):
        images_with_rows([Path("a.png")], {"a.png": Row(), "c.png": Row(text="left")})
