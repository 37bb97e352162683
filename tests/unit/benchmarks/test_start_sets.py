"""Runs on generated sets through the service: which images they use, and what they report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import start_sets
from benchmarks.start_sets import Outcome, drawers_of_run, fixed_camera_task, report, run, tasks_of, tone_task
from models.data.synthetic.fixed_camera import DEFECT_KINDS
from models.data.synthetic.tone_classes import brightness_classes
from service.client import Client
from service.http.app import create_app
from service.settings import Settings
from tests.generated import tiny_checkpoint_in
from tests.in_process import InProcess, started

OUTCOME = Outcome("colour", live=True, accuracy=0.9, known=1.0, estimate=0.8, interval=(0.7, 1.0), adapt_s=1.0)


@pytest.fixture
def anole(tmp_path: Path) -> Iterator[Client]:
    settings = Settings(
        data=tmp_path / "data", model=str(tiny_checkpoint_in(tmp_path)), device="cpu", demo=False, decoder_processes=0
    )
    with started(create_app(settings)) as web, Client("http://127.0.0.1", transport=InProcess(web)) as client:
        yield client


def test_a_run_adapts_a_client_and_predicts_the_other_images(anole: Client) -> None:
    task = tone_task(brightness_classes(np.random.default_rng(0), 2, start_sets.TONE_SHOTS + 3, side=32))
    outcomes = [run(anole, f"run-{number}", "brightness", task) for number in range(2)]
    assert [outcome.row for outcome in outcomes] == ["brightness", "brightness"]
    assert outcomes[0].accuracy == outcomes[1].accuracy > 0.8  # the tiny net sees brightness
    assert all(outcome.estimate is not None and outcome.interval is not None for outcome in outcomes)
    assert "brightness | 2 |" in report(outcomes, MACHINE)


MACHINE = {
    "machine": {
        "cores": 1, "processor": "x", "load_before": 0, "torch": "x", "device": "cpu", "torch_threads": 1,
        "checkpoint": "tiny",
    }
}  # fmt: skip


def test_support_and_queries_of_a_fixed_camera_show_different_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_sets, "PARTS", 4)
    monkeypatch.setattr(start_sets, "QUERIES", 2)
    task = fixed_camera_task(np.random.default_rng(0), "missing screw", pictures_per_part=2)
    assert [file.label for file in task.support] == ["good"] * 4 + ["missing screw"] * 4
    assert [file.part for file in task.support[:4]] == ["good 0", "good 0", "good 1", "good 1"]
    assert {label: len(contents) for label, contents in task.queries.items()} == {"good": 2, "missing screw": 2}
    contents = [file.content for file in task.support] + [one for many in task.queries.values() for one in many]
    assert len(set(contents)) == len(contents)


def test_single_pictures_of_parts_name_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_sets, "PARTS", 1)
    monkeypatch.setattr(start_sets, "QUERIES", 1)
    task = fixed_camera_task(np.random.default_rng(0), "burr", pictures_per_part=1)
    assert [file.part for file in task.support] == [None, None]


def test_kinds_of_defect_take_turns_and_other_sets_have_all_rows_in_every_run() -> None:
    cameras = tasks_of("fixed camera", [2])
    rows = [name for number in range(len(DEFECT_KINDS)) for name, _ in drawers_of_run(cameras, number)]
    assert rows == [f"fixed camera: {kind}" for kind in DEFECT_KINDS]
    assert [name for name, _ in drawers_of_run(tasks_of("colour", [2, 5]), 3)] == [
        "colour, 2 classes",
        "colour, 5 classes",
    ]


def test_the_report_averages_runs_and_sums_up_the_kinds_of_defect() -> None:
    outcomes = [
        replace(OUTCOME, row="fixed camera: burr"),
        replace(OUTCOME, row="fixed camera: dent", live=False, accuracy=0.6, estimate=None, interval=None),
    ]
    lines = report(outcomes, MACHINE).splitlines()
    assert "| fixed camera: all | 2 | 50 % | 75.0 % | 60 % | 100.0 % | -10.0 | 100 % | 1.00 s |" in lines
    assert any(line.startswith("| fixed camera: dent | 1 | 0 % | 60.0 % |") for line in lines)
