"""Learning curves: rows that survive a kill, and a picture where it can be drawn."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import pytest
from PIL import Image

from models.meta import curve as curves
from models.meta.curve import ROW_EVERY, Curve, centred_mean
from service.cli import main as cli
from service.cli import train as learn


def grown(path: Path, meta_steps: int) -> Curve:
    curve = Curve(path)
    for step in range(1, meta_steps + 1):
        curve.add(step, 1.0 / step, 0.5 * step, last=step == meta_steps)
    return curve


def test_a_row_is_the_mean_loss_since_the_row_before(tmp_path: Path) -> None:
    curve = grown(tmp_path / "run.csv", ROW_EVERY + 2)
    assert [row[0] for row in curve.rows] == [ROW_EVERY, ROW_EVERY + 2]
    assert curve.rows[0][1] == pytest.approx(sum(1 / step for step in range(1, ROW_EVERY + 1)) / ROW_EVERY)
    assert curve.rows[1][1] == pytest.approx((1 / (ROW_EVERY + 1) + 1 / (ROW_EVERY + 2)) / 2)
    assert curve.rows[1][2] == 0.5 * (ROW_EVERY + 2)


def test_a_curve_goes_on_from_the_rows_that_the_checkpoint_has_reached(tmp_path: Path) -> None:
    grown(tmp_path / "run.csv", 3 * ROW_EVERY).save()
    resumed = Curve(tmp_path / "run.csv")
    resumed.cut(2 * ROW_EVERY)
    assert [row[0] for row in resumed.rows] == [ROW_EVERY, 2 * ROW_EVERY]
    resumed.add(2 * ROW_EVERY + 1, 0.25, 7.0, last=True)
    assert resumed.rows[-1] == (2 * ROW_EVERY + 1, 0.25, ROW_EVERY + 7.0)


@pytest.mark.parametrize("stopped_at", [1, ROW_EVERY - 1, ROW_EVERY, ROW_EVERY + 30])
def test_an_interrupted_curve_ends_with_the_rows_of_one_that_was_not(stopped_at: int, tmp_path: Path) -> None:
    straight = grown(tmp_path / "straight.csv", 2 * ROW_EVERY + 5)
    first = Curve(tmp_path / "run.csv")
    for step in range(1, stopped_at + 1):
        first.add(step, 1.0 / step, 0.5 * step, last=False)
    first.save()
    assert (tmp_path / "run.csv").read_text().splitlines()[-1].startswith(f"{stopped_at},")
    resumed = Curve(tmp_path / "run.csv")
    resumed.cut(stopped_at)
    for step in range(stopped_at + 1, 2 * ROW_EVERY + 6):
        resumed.add(step, 1.0 / step, 0.5 * (step - stopped_at), last=step == 2 * ROW_EVERY + 5)
    assert [row[0] for row in resumed.rows] == [row[0] for row in straight.rows]
    for own, other in zip(resumed.rows, straight.rows, strict=True):
        assert own[1:] == pytest.approx(other[1:], abs=1e-5)


def test_the_loss_that_is_shown_is_the_mean_of_the_last_meta_steps(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "run.csv")
    assert math.isnan(curve.loss)
    for step, loss in enumerate([4.0, 2.0, *[1.0] * (ROW_EVERY - 1)], start=1):
        curve.add(step, loss, 0.0, last=False)
        if step == 2:
            assert curve.loss == 3.0
    assert curve.loss == pytest.approx((2.0 + ROW_EVERY - 1) / ROW_EVERY)


def test_files_are_replaced_whole_and_nothing_else_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "can_draw", lambda: False)
    curve = grown(tmp_path / "run.csv", ROW_EVERY)
    curve.save()
    curve.save()
    assert [path.name for path in tmp_path.iterdir()] == ["run.csv"]
    assert (tmp_path / "run.csv").read_text().splitlines()[0] == "meta_step,loss,seconds"


def test_a_moving_mean_looks_as_far_back_as_ahead() -> None:
    assert centred_mean([4.0, 2.0, 0.0, 4.0], 1) == [4.0, 2.0, 2.0, 4.0]
    assert centred_mean([8.0, 6.0, 4.0, 2.0, 0.0], 2) == [8.0, 6.0, 4.0, 2.0, 0.0]


@pytest.mark.parametrize("meta_steps", [1, ROW_EVERY, 40 * ROW_EVERY])
def test_the_picture_lies_beside_the_rows(tmp_path: Path, meta_steps: int) -> None:
    pytest.importorskip("matplotlib")
    grown(tmp_path / "run.csv", meta_steps).save()
    drawn = Image.open(io.BytesIO((tmp_path / "run.png").read_bytes())).convert("RGB")
    assert drawn.size == (1200, 675)
    colours = {colour for _, colour in drawn.getcolors(1 << 20) or []}
    assert (0x9D, 0xB7, 0xCF) in colours
    assert ((0x14, 0x50, 0x7E) in colours) == (meta_steps > 20 * ROW_EVERY)


@pytest.mark.parametrize("drawable", [True, False])
def test_a_training_says_once_that_the_picture_is_left_out(
    drawable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = curves.can_draw()
    for module in (curves, learn):
        monkeypatch.setattr(module, "can_draw", lambda: drawable and installed)
    for name in ("dent", "scratch"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("L", (16, 16), 40 * number + len(name)).save(folder / f"{number}.png")
    out = tmp_path / "run.safetensors"
    line = f"train --dataset folder:{tmp_path / 'data'} --ways 2 --shots 2 --meta-steps 1 --device cpu --out {out}"
    monkeypatch.setattr(sys, "argv", ["anole", *line.split()])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    said = capsys.readouterr().err
    assert not exited.value.code, said
    assert out.with_suffix(".csv").is_file()
    drawn = out.with_suffix(".png").is_file()
    assert said.count("pip install 'anole[plot]'") == (0 if drawn else 1)
    assert drawable or not drawn
