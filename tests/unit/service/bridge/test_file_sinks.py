"""Sinks that write files: a CSV table, an SQLite table, and the pictures that did not pass."""

from __future__ import annotations

import csv
import resource
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.bridge.config import CsvSink, FailuresSink, SqliteSink
from service.bridge.sinks.base import Sink
from service.bridge.sinks.csv import COLUMNS, Csv
from service.bridge.sinks.failures import Failures
from service.bridge.sinks.sqlite import Sqlite
from service.bridge.verdict import Verdict
from tests.unit.service.bridge.conftest import BAD, GOOD, run, verdict


def sent(sink: Sink, *verdicts: Verdict) -> None:
    async def main() -> None:
        async with sink.connected():
            for each in verdicts:
                await sink.send(each)

    run(main())


def test_lines_are_appended_to_the_csv_file_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    for each in (verdict(GOOD), verdict(None, name="=1+1.png")):
        sent(Csv(CsvSink(type="csv", path=path)), each)
    with path.open(newline="", encoding="utf-8") as table:
        header, first, second = csv.reader(table)
    assert header == list(COLUMNS)
    assert dict(zip(header, first, strict=True))["label"] == "good"
    assert dict(zip(header, second, strict=True))["name"] == "'=1+1.png"


def test_a_full_disk_leaves_no_half_a_line_in_the_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    sent(Csv(CsvSink(type="csv", path=path)), verdict(GOOD))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="is the disk full"):
            sent(Csv(CsvSink(type="csv", path=path)), verdict(BAD))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_a_csv_file_that_is_empty_or_was_moved_away_gets_a_header(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    path.touch()  # what a full disk leaves

    async def main() -> None:
        sink = Csv(CsvSink(type="csv", path=path))
        async with sink.connected():
            await sink.send(verdict(GOOD))
            path.rename(tmp_path / "yesterday.csv")
            await sink.send(verdict(BAD))

    run(main())
    for table in (path, tmp_path / "yesterday.csv"):
        assert [line.split(",")[0] == "id" for line in table.read_text(encoding="utf-8").splitlines()] == [True, False]


def test_the_columns_of_the_csv_file_are_the_fields_of_a_verdict() -> None:
    assert list(COLUMNS) == list(verdict().fields())


def test_a_verdict_that_comes_twice_is_one_row(tmp_path: Path) -> None:
    path, one, two = tmp_path / "verdicts.db", verdict(GOOD), verdict(BAD)
    sent(Sqlite(SqliteSink(type="sqlite", path=path)), one, one, two)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, result, label, confidence FROM verdicts").fetchall()
    assert rows == [(one.picture.id, "pass", "good", 0.9), (two.picture.id, "fail", "bad", 0.8)]


def failure(number: int, size: int = 10) -> Verdict:
    taken_at = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=number)
    picture = replace(verdict().picture, taken_at=taken_at, content=b"\x89PNG".ljust(size), id=f"{number:032x}")
    return replace(verdict(BAD), picture=picture)


def test_pictures_that_did_not_pass_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "failures"
    sent(Failures(FailuresSink(type="failures", path=folder)), verdict(GOOD), failure(1))
    (kept,) = folder.iterdir()
    assert (kept.name, kept.read_bytes()) == (f"20260301T120001.000000-fail-bad-{1:032x}.png", b"\x89PNG      ")


def test_the_oldest_pictures_are_deleted_beyond_the_bounds(tmp_path: Path) -> None:
    def ids(**bounds: int) -> list[str]:
        folder = tmp_path / str(bounds)
        folder.mkdir()
        (folder / "20200101-other-file-.png").touch()
        sent(Failures(FailuresSink(type="failures", path=folder, **bounds)), *(failure(n, 600) for n in range(4)))
        return sorted(path.stem.rpartition("-")[2].lstrip("0") for path in folder.iterdir())

    assert ids(max_files=3) == ["", "1", "2", "3"]  # the empty id is that of the other file
    assert ids(max_bytes=1300) == ["", "2", "3"]


def test_labels_cannot_leave_the_folder(tmp_path: Path) -> None:
    escaped = replace(failure(1), judgement=replace(BAD, label="../../etc"))
    sent(Failures(FailuresSink(type="failures", path=tmp_path)), escaped)
    assert [path.name for path in tmp_path.iterdir()] == [
        "20260301T120001.000000-fail-.._.._etc-00000000000000000000000000000001.png"
    ]
