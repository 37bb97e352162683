"""Reads a table of what comes with images: a text each, or numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from service.client.errors import InvalidInput
from service.client.files import Image, LabelledFile, read_file

_FILE: Final = "file"
_TEXT: Final = "text"

T = TypeVar("T", Image, LabelledFile)


@dataclass(frozen=True, slots=True)
class Row:
    """What comes with one image: a text or numbers."""

    text: str | None = None
    vector: tuple[float, ...] | None = None


def read_table(path: Path) -> dict[str, Row]:
    """Read a CSV file with the column `file` and either the column `text` or columns of numbers.

    Returns:
        File name -> what comes with that image.

    Raises:
        InvalidInput: the file cannot be read, a column is missing, a number is not valid, or a file has two rows.
    """
    try:
        lines = csv.DictReader(io.StringIO(read_file(path).decode("utf-8-sig"), newline=""), strict=True)
        columns, records = list(lines.fieldnames or ()), list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path} is not a CSV file in UTF-8: {error}") from error
    if _FILE not in columns or len(columns) < 2 or (_TEXT in columns and len(columns) > 2):
        raise InvalidInput(
            f"{path} has the columns {', '.join(columns) or 'none'}; it needs {_FILE!r}, and either {_TEXT!r} or one "
            "column for each number"
        )
    rows: dict[str, Row] = {}
    for number, record in enumerate(records, 2):
        if None in record or None in record.values():
            raise InvalidInput(f"line {number} of {path} has another number of values than the first line")
        if record[_FILE] in rows:
            raise InvalidInput(f"{path} has two lines for {record[_FILE]!r}; remove one")
        rows[record[_FILE]] = _row(record, f"line {number} of {path}")
    return rows


def samples_with_rows(samples: Sequence[LabelledFile], rows: Mapping[str, Row]) -> list[LabelledFile]:
    """Return samples with what comes with them. Rows name a sample by `NAME` or `CLASS/NAME`.

    Raises:
        InvalidInput: a row belongs to no sample.
    """
    return _with_rows(samples, [(f"{sample.label}/{sample.name}", sample.name) for sample in samples], rows)


def images_with_rows(paths: Sequence[Path], rows: Mapping[str, Row]) -> list[Image]:
    """Return images with what comes with them. Rows name an image by its path or its file name.

    Raises:
        InvalidInput: a row belongs to no image.
    """
    return _with_rows([Image(path) for path in paths], [(str(path), path.name) for path in paths], rows)


def _with_rows(images: Sequence[T], names: Sequence[tuple[str, str]], rows: Mapping[str, Row]) -> list[T]:
    if unused := rows.keys() - {name for both in names for name in both}:
        raise InvalidInput(
            f"the table has a line for {min(unused)!r}, and no image has that name; correct or remove it"
        )
    found = [rows.get(full, rows.get(short, Row())) for full, short in names]
    return [replace(image, text=row.text, vector=row.vector) for image, row in zip(images, found, strict=True)]


def _row(record: Mapping[str, str], place: str) -> Row:
    if _TEXT in record:
        return Row(text=record[_TEXT] or None)
    numbers = [value for column, value in record.items() if column != _FILE]
    if not any(numbers):
        return Row()
    try:
        return Row(vector=tuple(float(number) for number in numbers))
    except ValueError as error:
        raise InvalidInput(
            f"{place} has {numbers}, which are not all numbers; leave all empty if none is known"
        ) from error
