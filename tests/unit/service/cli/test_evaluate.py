"""`anole evaluate`: a table that fits a narrow terminal, and the same as data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from models.checkpoint import load_checkpoint
from service.cli import main as cli
from tests.generated import striped, tiny_checkpoint_in


@pytest.fixture
def line(tmp_path: Path) -> str:
    folder = tmp_path / "a folder of stripes whose name is long"
    for period in (3, 5, 9):
        (folder / f"period-{period}").mkdir(parents=True)
        for number, content in enumerate(striped(4, period)):
            (folder / f"period-{period}" / f"{number}.png").write_bytes(content)
    return f"--checkpoint|{tiny_checkpoint_in(tmp_path)}|--dataset|folder:{folder}|--ways|3|--shots|2|--queries|2"


def evaluated(line: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    arguments = ["anole", "evaluate", *line.split("|"), "--episodes", "4", "--seed", "7", "--device", "cpu", *options]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert not exited.value.code


def test_the_table_and_the_data_say_the_same(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(line, monkeypatch, "--json")
    row = json.loads(capsys.readouterr().out)
    assert row["digest"] == load_checkpoint(line.split("|")[1]).digest
    assert (row["ways"], row["shots"], row["queries"], row["episodes"], row["seed"]) == (3, 2, 2, 4, 7)
    evaluated(line, monkeypatch)
    printed = capsys.readouterr().out
    interval = f"{100 * row['accuracy']:.2f} ± {100 * row['half_width_95']:.2f} %"
    for part in ("3-way 2-shot", "frozen", interval, row["digest"][:12], row["data"]):
        assert part in " ".join(printed.split())
    cells = next(text for text in printed.splitlines() if "3-way" in text)
    assert len(cells) <= 80
    assert cells.split()[2:6] == ["2", "4", "7", "5"]  # queries, episodes, seed, inner steps


def test_transductive_queries_are_said_to_be(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(line, monkeypatch, "--transductive", "--steps", "0")
    captured = capsys.readouterr()
    assert "transductive" in captured.out
    assert "evaluation 4/4" in captured.err
