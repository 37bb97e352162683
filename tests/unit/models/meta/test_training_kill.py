"""A killed training run resumes and ends with the same bits as an uninterrupted one."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from models.checkpoint import load_checkpoint
from models.meta import curve, training
from service.cli import main as cli
from tests.processes import PROCESSES
from tests.unit.models.meta import training_child

META_STEPS = 6

Train = Callable[[Path], str]


def arguments(pictures: Path, out: Path) -> list[str]:
    """Return the arguments of a run that saves after every meta step and carries Adam's moments."""
    line = f"train --dataset folder:{pictures} --preset paper --ways 2 --shots 2 --meta-steps {META_STEPS} --seed 3"
    return [*line.split(), "--device", "cpu", "--save-every-s", "0", "--out", str(out)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for shade, name in ((60, "dent"), (150, "scratch"), (200, "stain")):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (28, 28), shade + 9 * number).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def train(pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """Run `anole train` to its end and return its stderr."""
    monkeypatch.setattr(curve, "can_plot", lambda: False)

    def run(out: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["anole", *arguments(pictures, out)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        stderr = capsys.readouterr().err
        assert not exited.value.code, stderr
        return stderr

    return run


def rows(checkpoint: Path) -> list[list[str]]:
    with checkpoint.with_suffix(".csv").open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(("when", "saved_step"), [("before", 3), ("after", 4)])
def test_a_killed_run_resumes_and_ends_like_an_uninterrupted_one(
    when: str, saved_step: int, pictures: Path, train: Train, tmp_path: Path
) -> None:
    uninterrupted, killed = tmp_path / "uninterrupted.safetensors", tmp_path / "killed.safetensors"
    train(uninterrupted)
    process = PROCESSES.Process(target=training_child.train_and_die, args=(arguments(pictures, killed), when, 4))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert load_checkpoint(killed).training["meta_step"] == saved_step

    stderr = train(killed)
    assert f"is at meta step {saved_step} of {META_STEPS}; resuming" in stderr
    assert f"training {META_STEPS}/{META_STEPS}" in stderr
    one, other = load_checkpoint(uninterrupted), load_checkpoint(killed)
    assert one.moments is not None
    assert one.digest == other.digest
    assert one.training == other.training
    assert [row[0] for row in rows(uninterrupted)] == [row[0] for row in rows(killed)] == ["meta_step", str(META_STEPS)]


def test_training_a_finished_run_again_changes_nothing(train: Train, tmp_path: Path) -> None:
    out = tmp_path / "done.safetensors"
    train(out)
    before, curve_rows = load_checkpoint(out), rows(out)
    assert "training is complete" in train(out)
    after = load_checkpoint(out)
    assert (after.digest, after.training, rows(out)) == (before.digest, before.training, curve_rows)


def test_a_keyboard_interrupt_saves_the_progress(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(curve.LearningCurve):
        def append(self, meta_step: int, loss: float, seconds: float, *, last: bool) -> None:
            super().append(meta_step, loss, seconds, last=last)
            if meta_step == 3:
                raise KeyboardInterrupt

    out = tmp_path / "stopped.safetensors"
    monkeypatch.setattr(curve, "can_plot", lambda: False)
    monkeypatch.setattr(training, "LearningCurve", Interrupted)
    monkeypatch.setattr(sys, "argv", ["anole", *arguments(pictures, out), "--save-every-s", "3600"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 130
    assert load_checkpoint(out).training["meta_step"] == 3
    assert [row[0] for row in rows(out)] == ["meta_step", "3"]
    assert "is saved at meta step 3; run the command again to resume" in capsys.readouterr().err
