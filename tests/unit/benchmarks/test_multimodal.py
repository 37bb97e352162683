"""The comparison of two modalities with each alone, on a few episodes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import multimodal
from models.checkpoint import Checkpoint, save_checkpoint
from models.config import PRESETS
from models.images.preprocessing import ImageConfig
from models.nets import build


def test_notes_are_scored_with_both_modalities_and_with_each_alone(tmp_path: Path) -> None:
    notes = PRESETS["surface-notes"]
    net = replace(notes.net_config, image=ImageConfig(channels=1, side=16), width=16)
    path = tmp_path / "small.safetensors"
    save_checkpoint(Checkpoint("small", net, replace(notes.serve, steps=1), build(net).start()), path)
    arguments = argparse.Namespace(part=["notes"], episodes=2, queries=1, notes_shots=[1, 5, 10], checkpoint=str(path))
    result = multimodal.run(arguments)
    assert set(result["notes"]) == {1, 5, 10}
    assert all(len(scored) == 2 for scores in result["notes"].values() for scored in scores.values())
    (printed,) = multimodal.tables(result)
    assert printed.count("\n") == 6


def test_both_modalities_are_compared_with_the_better_one_alone() -> None:
    scores = {"both": [0.9, 0.9], multimodal.IMAGES: [0.5, 0.6], multimodal.SECONDS: [0.8, 0.7]}
    assert multimodal.rival_of("both", scores) == multimodal.SECONDS
    assert "+15.00" in multimodal.table("strokes", {1: scores})


@pytest.mark.parametrize("row", multimodal.ROWS[3:], ids=lambda row: row.name)
def test_a_missing_modality_is_compared_with_the_net_that_never_had_it(row: multimodal.Row) -> None:
    assert row.trained == "both"
    rival = next(other for other in multimodal.ROWS if other.name == row.rival)
    assert rival.trained == rival.query == row.query
