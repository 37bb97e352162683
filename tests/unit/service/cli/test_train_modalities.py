"""`anole train` and `anole evaluate` with a net that takes an image and a note."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.config import PRESETS
from models.images.preprocessing import ImageConfig
from models.nets import build
from service.cli import main as cli

NOTES = PRESETS["surface-notes"]
SMALL = replace(
    NOTES,
    net_config=replace(NOTES.net_config, image=ImageConfig(channels=1, side=16), width=16),
    meta=replace(NOTES.meta, meta_steps=2, meta_batch=1, train_shots=2),
)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the image encoder of a small preset."""
    monkeypatch.setitem(PRESETS, "surface-notes", SMALL)
    net = replace(SMALL.net_config, second="none", second_size=0)
    path = tmp_path / "encoder.safetensors"
    save_checkpoint(Checkpoint("encoder", net, SMALL.serve, build(net, seed=5).start()), path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["anole", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    return int(exited.value.code or 0)


def test_an_encoder_that_is_not_adapted_keeps_its_bytes_in_training(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "notes.safetensors"
    options = ("--dataset", "surface-notes", "--device", "cpu")
    assert run(monkeypatch, "train", *options, "--start", start, "--adapt-modality", "second", "--out", out) == 0
    encoder, trained = load_checkpoint(start), load_checkpoint(out)
    fresh = build(SMALL.net_config).start()
    assert all(torch.equal(trained.weights[f"image.{name}"], own) for name, own in encoder.weights.items())
    assert not torch.equal(trained.weights["second.layer1.weight"], fresh["second.layer1.weight"])
    assert ("image.*", 0.0) in trained.recipe.lr_multipliers
    assert trained.training["data"]["start"] == encoder.digest
    capsys.readouterr()
    shape = ("--ways", 6, "--shots", 2, "--queries", 1, "--episodes", 2, "--within-line", "--json")
    evaluated = ("evaluate", "--checkpoint", out, *options, *shape)
    assert run(monkeypatch, *evaluated, "--modality", "image", "--adapt-modality", "both") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["modality"], row["query_modality"]) == ("image", "image")


def test_options_for_modalities_need_a_net_that_takes_two(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = ("evaluate", "--checkpoint", start, "--dataset", "textures", "--modality", "image")
    assert run(monkeypatch, *evaluated) == 2
    assert "surface-notes" in capsys.readouterr().err
    trained = ("train", "--dataset", "textures", "--adapt-modality", "image", "--out", tmp_path / "out.safetensors")
    assert run(monkeypatch, *trained) == 2


def test_the_image_encoder_of_another_net_is_an_error(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert run(monkeypatch, "train", "--dataset", "surface-notes", "--start", "omniglot", "--out", out) == 2
    assert "omniglot" in capsys.readouterr().err
