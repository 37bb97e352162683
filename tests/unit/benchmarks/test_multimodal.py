"""The comparison of two modalities with each alone, on a few episodes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import multimodal
from models.adaptation.adapt import adapt_one
from models.checkpoint import Checkpoint, save_checkpoint
from models.config import PRESETS, InnerLoopConfig, NetConfig
from models.images.preprocessing import ImageConfig
from models.modalities.rows import Present, keep_only, pack_rows
from models.nets import build
from models.task import Support


def notes_arguments(checkpoint: str, shots: list[int], episodes: int) -> argparse.Namespace:
    lines = "surface-notes:val"
    given = {"episodes": episodes, "queries": 1, "notes_shots": shots, "checkpoint": checkpoint, "lines": lines}
    return argparse.Namespace(part=["notes"], **given)


def test_notes_beside_a_frozen_backbone_are_scored_on_the_same_images() -> None:
    result = multimodal.run(notes_arguments("efficientnet-lite0", [2], episodes=2))
    scores = result["notes"][2]
    alone = multimodal.IMAGES_OF_BACKBONE
    assert scores["frozen backbone; images and notes, no notes at prediction"] == scores[alone]
    assert sum(scores["frozen backbone; images and notes"]) > sum(scores[alone])
    (printed,) = multimodal.tables(result)
    assert printed.count("\n") == 6


def test_notes_are_scored_with_both_modalities_and_with_each_alone(tmp_path: Path) -> None:
    notes = PRESETS["surface-notes"]
    net = replace(notes.net_config, image=ImageConfig(channels=1, side=16), width=16)
    path = tmp_path / "small.safetensors"
    save_checkpoint(Checkpoint("small", net, replace(notes.serve, steps=1), build(net).start()), path)
    result = multimodal.run(notes_arguments(str(path), [1, 5, 10], episodes=2))
    assert set(result["notes"]) == {1, 5, 10}
    assert all(len(scored) == 2 for scores in result["notes"].values() for scored in scores.values())
    (printed,) = multimodal.tables(result)
    assert printed.count("\n") == 6


def test_the_picture_is_of_one_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    scores = {name: [0.5, 0.6] for name in (multimodal.IMAGES, multimodal.SECONDS)}
    assert multimodal.picture({1: scores, 5: scores}).startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["multimodal.py", "--picture", "accuracies.png"])
    with pytest.raises(SystemExit):
        multimodal.main()
    assert "needs one --part, got strokes notes" in capsys.readouterr().err


def test_nets_with_both_modalities_are_compared_with_the_better_one_alone() -> None:
    both = multimodal.TRAININGS["apart"]
    scores = {both: [0.9, 0.9], multimodal.IMAGES: [0.5, 0.6], multimodal.SECONDS: [0.8, 0.7]}
    assert multimodal.rival_of(both, scores) == multimodal.SECONDS
    assert "+15.00" in multimodal.table("strokes", {1: scores})


@pytest.mark.parametrize("row", multimodal.rows_of("joint")[1:], ids=lambda row: row.name)
def test_a_missing_modality_is_compared_with_the_net_that_never_had_it(row: multimodal.Row) -> None:
    rival = next(other for other in multimodal.ALONE if other.name == row.rival)
    assert rival.trained == rival.query == row.query


def test_encoders_that_were_trained_apart_do_as_well_alone_as_before() -> None:
    net_config = NetConfig("conv4", ImageConfig(channels=1, side=16), width=4, second="vector", second_size=3)
    recipe = InnerLoopConfig(steps=1, learning_rate=0.1, batch_size=4)
    starts = [Checkpoint(name, net_config, recipe, build(net_config, seed).start()) for seed, name in enumerate("is")]
    rows = pack_rows(torch.rand(4, 1, 16, 16), torch.rand(4, 3), 3)
    modalities: tuple[Present, ...] = ("image", "second")
    for start, modality in zip(starts, modalities, strict=True):
        support = Support(keep_only(rows, 3, modality), torch.tensor([0, 0, 1, 1]), 2)
        net = start.build_net()
        own, both = (adapt_one(net, each.weights, support, recipe, 0) for each in (start, multimodal.joined(*starts)))
        moved = [name for name in own.weights if name.startswith((f"{modality}.", "head."))]
        assert moved
        assert all(torch.equal(own.weights[name], both.weights[name]) for name in moved)
