"""The benchmark of a memory of tasks: paired episodes with and without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import task_memory
from benchmarks.intervals import LETTER, PANEL
from models.checkpoint import load_checkpoint
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.synthetic import Textures
from models.meta.memory import MemoryConfig, TaskMemory
from tests.generated import tiny_checkpoint_in


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Options of a short run whose memory, of two tasks, is already in the folder."""
    path = tiny_checkpoint_in(tmp_path)
    start = load_checkpoint(path)
    textures = Textures(start.net_config.image.side, 1, seed=5, lines=1)
    supports = [EpisodeSampler(textures, EpisodeShape(3, 2), start.net_config.image).support(seed) for seed in (0, 1)]
    memory = TaskMemory(start.digest, MemoryConfig(2))
    memory.remember(start.build_net(), start.weights, supports, start.recipe, [0, 1]).save(
        tmp_path / f"{start.digest[:12]}-2-0.safetensors"
    )
    chosen = "--tasks 2 --only surfaces --shots 1 2 --steps 0 1 --episodes 2 --queries 2"
    return ["--checkpoint", str(path), "--folder", str(tmp_path), "--data-root", str(tmp_path), *chosen.split()]


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["task_memory.py", *options])
    task_memory.main()
    return capsys.readouterr().out


def test_what_counts_is_what_cross_validation_chooses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    record = json.loads(run(monkeypatch, capsys, [*options, "--json"]))
    assert [(cell["shots"], cell["steps"]) for cell in record["cells"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for cell in record["cells"]:
        assert len(cell["alone"]) == 2
        assert cell["kept"] == [False, False] or cell["shots"] == 2  # one sample a class gives no folds
        chosen = zip(cell["kept"], cell["recalled"], cell["alone"], strict=True)
        assert cell["chosen"] == [recalled if kept else alone for kept, recalled, alone in chosen]


def test_the_table_has_a_row_for_each_number_of_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    printed = run(monkeypatch, capsys, options)
    assert "2 tasks, 32 neighbours" in printed
    assert printed.count("| surfaces, 1-shot |") == 2


def test_the_picture_has_a_panel_for_each_number_of_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "memory.png"
    run(monkeypatch, capsys, [*options, "--shots", "2", "--picture", str(path)])
    width = int.from_bytes(path.read_bytes()[16:20], "big")
    assert width == round(100 * (2 * PANEL + LETTER * len("surfaces"))), "two panels"
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, [*options, "--picture", str(path)])
    assert "--picture: needs one number of --shots" in capsys.readouterr().err


def test_a_client_that_is_taught_again_recalls_its_earlier_task_until_that_is_deleted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    chosen = [*options, "--retaught", "--neighbours", "1", "--shots", "2", "--steps", "0"]
    again, printed = (run(monkeypatch, capsys, [*chosen, *more]) for more in (["--json"], []))
    (cell,) = json.loads(again)["retaught"]
    assert [len(cell[name]) for name in ("alone", "own", "deleted")] == [2, 2, 2]
    assert "| surfaces, 2-shot | 0 |" in printed.split("taught again")[1]
