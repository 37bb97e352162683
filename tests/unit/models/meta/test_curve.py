"""Learning curves: rows that survive an interruption, and the plot."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import pytest
from PIL import Image

from models.meta import curve as curves
from models.meta.curve import STEPS_PER_ROW, LearningCurve, moving_average
from service.cli import main as cli
from service.cli import train as learn


def recorded(path: Path, meta_steps: int) -> LearningCurve:
    curve = LearningCurve(path)
    for step in range(1, meta_steps + 1):
        curve.append(step, 1.0 / step, 0.5 * step, last=step == meta_steps)
    return curve


def test_a_row_is_the_mean_loss_since_the_previous_row(tmp_path: Path) -> None:
    curve = recorded(tmp_path / "run.csv", STEPS_PER_ROW + 2)
    assert [row[0] for row in curve.rows] == [STEPS_PER_ROW, STEPS_PER_ROW + 2]
    assert curve.rows[0][1] == pytest.approx(sum(1 / step for step in range(1, STEPS_PER_ROW + 1)) / STEPS_PER_ROW)
    assert curve.rows[1][1] == pytest.approx((1 / (STEPS_PER_ROW + 1) + 1 / (STEPS_PER_ROW + 2)) / 2)
    assert curve.rows[1][2] == 0.5 * (STEPS_PER_ROW + 2)


def test_a_resumed_curve_keeps_the_rows_up_to_the_checkpoint(tmp_path: Path) -> None:
    recorded(tmp_path / "run.csv", 3 * STEPS_PER_ROW).save()
    resumed = LearningCurve(tmp_path / "run.csv")
    resumed.resume(2 * STEPS_PER_ROW)
    assert [row[0] for row in resumed.rows] == [STEPS_PER_ROW, 2 * STEPS_PER_ROW]
    resumed.append(2 * STEPS_PER_ROW + 1, 0.25, 7.0, last=True)
    assert resumed.rows[-1] == (2 * STEPS_PER_ROW + 1, 0.25, STEPS_PER_ROW + 7.0)


@pytest.mark.parametrize("stopped_at", [1, STEPS_PER_ROW - 1, STEPS_PER_ROW, STEPS_PER_ROW + 30])
def test_an_interrupted_curve_has_the_rows_of_an_uninterrupted_one(stopped_at: int, tmp_path: Path) -> None:
    uninterrupted = recorded(tmp_path / "uninterrupted.csv", 2 * STEPS_PER_ROW + 5)
    first = LearningCurve(tmp_path / "run.csv")
    for step in range(1, stopped_at + 1):
        first.append(step, 1.0 / step, 0.5 * step, last=False)
    first.save()
    assert (tmp_path / "run.csv").read_text().splitlines()[-1].startswith(f"{stopped_at},")
    resumed = LearningCurve(tmp_path / "run.csv")
    resumed.resume(stopped_at)
    for step in range(stopped_at + 1, 2 * STEPS_PER_ROW + 6):
        resumed.append(step, 1.0 / step, 0.5 * (step - stopped_at), last=step == 2 * STEPS_PER_ROW + 5)
    assert [row[0] for row in resumed.rows] == [row[0] for row in uninterrupted.rows]
    for row, other in zip(resumed.rows, uninterrupted.rows, strict=True):
        assert row[1:] == pytest.approx(other[1:], abs=1e-5)


def test_the_reported_loss_is_the_mean_of_the_last_meta_steps(tmp_path: Path) -> None:
    curve = LearningCurve(tmp_path / "run.csv")
    assert math.isnan(curve.loss)
    for step, loss in enumerate([4.0, 2.0, *[1.0] * (STEPS_PER_ROW - 1)], start=1):
        curve.append(step, loss, 0.0, last=False)
        if step == 2:
            assert curve.loss == 3.0
    assert curve.loss == pytest.approx((2.0 + STEPS_PER_ROW - 1) / STEPS_PER_ROW)


def test_saving_twice_leaves_only_the_csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "can_plot", lambda: False)
    curve = recorded(tmp_path / "run.csv", STEPS_PER_ROW)
    curve.save()
    curve.save()
    assert [path.name for path in tmp_path.iterdir()] == ["run.csv"]
    assert (tmp_path / "run.csv").read_text().splitlines()[0] == "meta_step,loss,seconds"


def test_the_moving_average_is_symmetric() -> None:
    assert moving_average([4.0, 2.0, 0.0, 4.0], 1) == [4.0, 2.0, 2.0, 4.0]
    assert moving_average([8.0, 6.0, 4.0, 2.0, 0.0], 2) == [8.0, 6.0, 4.0, 2.0, 0.0]


@pytest.mark.parametrize("meta_steps", [1, STEPS_PER_ROW, 40 * STEPS_PER_ROW])
def test_the_plot_is_saved_next_to_the_csv_file(tmp_path: Path, meta_steps: int) -> None:
    pytest.importorskip("matplotlib")
    recorded(tmp_path / "run.csv", meta_steps).save()
    plot = Image.open(io.BytesIO((tmp_path / "run.png").read_bytes())).convert("RGB")
    assert plot.size == (1200, 675)
    colours = {colour for _, colour in plot.getcolors(1 << 20) or []}
    assert (0x9D, 0xB7, 0xCF) in colours
    assert ((0x14, 0x50, 0x7E) in colours) == (meta_steps > 20 * STEPS_PER_ROW)


def train_briefly(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Train for one meta step with the command line; return what it prints to standard error."""
    for name in ("dent", "scratch"):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (16, 16), 40 * number + len(name)).save(folder / "data" / name / f"{number}.png")
    line = f"train --dataset folder:{folder / 'data'} --ways 2 --shots 2 --meta-steps 1 --device cpu"
    monkeypatch.setattr(sys, "argv", ["anole", *line.split(), "--out", str(folder / "run.safetensors")])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    stderr = capsys.readouterr().err
    assert not exited.value.code, stderr
    return stderr


@pytest.mark.usefixtures("small_presets")
def test_training_without_matplotlib_mentions_the_plot_extra_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (curves, learn):
        monkeypatch.setattr(module, "can_plot", lambda: False)
    assert train_briefly(tmp_path, monkeypatch, capsys).count("pip install -e '.[plot]'") == 1
    assert (tmp_path / "run.csv").is_file()
    assert not (tmp_path / "run.png").exists()


@pytest.mark.usefixtures("small_presets")
def test_training_with_matplotlib_saves_the_plot_and_mentions_no_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert "[plot]" not in train_briefly(tmp_path, monkeypatch, capsys)
    assert (tmp_path / "run.csv").is_file()
    assert (tmp_path / "run.png").is_file()
