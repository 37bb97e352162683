"""`anole evaluate` prints a table that fits a narrow terminal, or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from models.checkpoint import load_checkpoint
from service.cli import main as cli
from tests.generated import striped, tiny_checkpoint_in


@pytest.fixture
def arguments(tmp_path: Path) -> str:
    folder = tmp_path / "a folder of stripes whose name is long"
    for period in (3, 5, 9):
        (folder / f"period-{period}").mkdir(parents=True)
        for number, content in enumerate(striped(4, period)):
            (folder / f"period-{period}" / f"{number}.png").write_bytes(content)
    return f"--checkpoint|{tiny_checkpoint_in(tmp_path)}|--dataset|folder:{folder}|--ways|3|--shots|2|--queries|2"


def evaluate(arguments: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    command = [
        "anole",
        "evaluate",
        *arguments.split("|"),
        "--episodes",
        "4",
        "--seed",
        "7",
        "--device",
        "cpu",
        *options,
    ]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert not exited.value.code


def test_table_and_json_agree(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(arguments, monkeypatch, "--json")
    row = json.loads(capsys.readouterr().out)
    assert row["digest"] == load_checkpoint(arguments.split("|")[1]).digest
    assert (row["ways"], row["shots"], row["queries"], row["episodes"], row["seed"]) == (3, 2, 2, 4, 7)
    evaluate(arguments, monkeypatch)
    printed = capsys.readouterr().out
    interval = f"{100 * row['accuracy']:.2f} ± {100 * row['half_width_95']:.2f} %"
    for part in ("3-way 2-shot", "frozen", interval, row["digest"][:12], row["data"]):
        assert part in " ".join(printed.split())
    cells = next(text for text in printed.splitlines() if "3-way" in text)
    assert len(cells) <= 80
    assert cells.split()[2:6] == ["2", "4", "7", "5"]  # queries, episodes, seed, inner steps


def test_transductive_evaluation_is_marked_and_progress_goes_to_standard_error(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(arguments, monkeypatch, "--transductive", "--steps", "0")
    captured = capsys.readouterr()
    assert "transductive" in captured.out
    assert "evaluation 4/4" in captured.err
