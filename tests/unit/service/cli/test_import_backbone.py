"""`anole import-backbone` makes a checkpoint that the other commands use, if its factory is allowed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import find_checkpoint, load_checkpoint
from models.errors import CheckpointInvalid
from service.bootstrap import build
from service.cli import import_backbone as command
from service.cli import main as cli
from service.settings import Settings
from tests.backbones import Transformer, factory_of, weights_in
from tests.generated import striped

FACTORY = factory_of(Transformer)
Anole = Callable[..., tuple[int, str, str]]


@pytest.fixture
def anole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Anole:
    """Return a function that runs a command line and returns exit code, standard output and standard error."""
    monkeypatch.setattr(command, "can_export", lambda: False)
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anole", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        captured = capsys.readouterr()
        return int(exited.value.code or 0), captured.out, captured.err

    return run


def options(folder: Path, name: str = "own") -> list[str]:
    weights = weights_in(folder, Transformer)
    return ["import-backbone", FACTORY, "--weights", str(weights), "--name", name, "--out", str(folder), "--side", "32"]


def features_of(folder: Path) -> int:
    return load_checkpoint(folder / "own.safetensors", [FACTORY]).build_net().feature_count


def test_the_stages_the_size_and_the_next_command_are_printed(anole: Anole, tmp_path: Path) -> None:
    code, printed, _ = anole(*options(tmp_path))
    assert code == 0
    for part in (
        "blocks.0, blocks.1, blocks.2",
        f"features    {features_of(tmp_path)}",
        "stretched to 32 x 32 pixels, contrast torchvision",
        "none, torch serves it",
        f"anole serve --model {tmp_path / 'own.safetensors'} --allow-factory {FACTORY}",
    ):
        assert part in printed


def test_named_stages_are_used_and_json_is_printed(anole: Anole, tmp_path: Path) -> None:
    code, printed, _ = anole(*options(tmp_path), "--stage", "blocks.1", "--contrast", "none", "--json")
    record = json.loads(printed)
    assert (code, record["stages"], record["onnx"]) == (0, ["blocks.1"], None)
    assert record["features"] == features_of(tmp_path)
    assert record["image"] == {"channels": 3, "side": 32, "contrast": "none"}


@pytest.mark.parametrize("name", ["surfaces", "surfaces-small", "efficientnet-lite0", "../up", "A"])
def test_a_name_that_is_taken_or_no_name_is_wrong_usage(anole: Anole, tmp_path: Path, name: str) -> None:
    code, _, error = anole(*options(tmp_path, name))
    assert (code, "name" in error) == (2, True)


def test_an_existing_checkpoint_is_never_overwritten(anole: Anole, tmp_path: Path) -> None:
    assert anole(*options(tmp_path))[0] == 0
    content = (tmp_path / "own.safetensors").read_bytes()
    code, _, error = anole(*options(tmp_path))
    assert (code, "exists" in error) == (2, True)
    assert (tmp_path / "own.safetensors").read_bytes() == content


def test_weights_that_do_not_fit_are_a_failure_with_one_line(anole: Anole, tmp_path: Path) -> None:
    arguments = options(tmp_path)
    path = Path(arguments[3])
    save_file({**load_file(path), "extra": torch.zeros(1)}, path)
    code, _, error = anole(*arguments)
    assert (code, error.count("\n"), "unexpected: extra" in error) == (1, 1, True)


def test_a_checkpoint_is_used_only_with_its_factory_allowed(anole: Anole, tmp_path: Path) -> None:
    anole(*options(tmp_path))
    folder = tmp_path / "stripes"
    for period in (3, 5, 9):
        (folder / f"period-{period}").mkdir(parents=True)
        for number, content in enumerate(striped(4, period)):
            (folder / f"period-{period}" / f"{number}.png").write_bytes(content)
    evaluate = ["evaluate", "--checkpoint", str(tmp_path / "own.safetensors"), "--dataset", f"folder:{folder}"]
    evaluate += ["--ways", "3", "--shots", "2", "--queries", "2", "--episodes", "3", "--json"]
    code, _, error = anole(*evaluate)
    assert (code, "is not allowed" in error) == (1, True)
    code, printed, _ = anole(*evaluate, "--allow-factory", FACTORY)
    assert code == 0
    assert 0 <= json.loads(printed)["accuracy"] <= 1


def test_a_service_offers_an_imported_backbone(anole: Anole, tmp_path: Path) -> None:
    anole(*options(tmp_path))
    settings = Settings(
        data=tmp_path / "store",
        model=(str(tmp_path / "own.safetensors"),),
        allow_factory=(FACTORY,),
        device="cpu",
        decoder_processes=0,
    )
    with pytest.raises(CheckpointInvalid, match="is not allowed"):
        build(settings.model_copy(update={"allow_factory": ()}))
    services = build(settings)
    try:
        assert [summary.name for summary in services.checkpoints.list()] == ["own"]
    finally:
        services.close()


def test_train_says_what_can_be_trained_of_a_frozen_backbone(anole: Anole, tmp_path: Path) -> None:
    train = ["train", "--dataset", "textures", "--meta-steps", "1", "--out", str(tmp_path / "trained.safetensors")]
    code, _, error = anole(*train, "--start", "efficientnet-lite0")
    assert (code, "only its covariance prior is trained" in " ".join(error.split())) == (2, True)
    shutil.copyfile(find_checkpoint("efficientnet-lite0"), train[-1])
    code, _, error = anole(*train)
    assert (code, "frozen backbone, whose weights no training changes" in error) == (1, True)


def test_bayesian_reptile_trains_on_from_a_checkpoint_with_the_net_of_the_preset(anole: Anole, tmp_path: Path) -> None:
    out = tmp_path / "bayes.safetensors"
    train = ["train", "--dataset", "textures", "--algorithm", "bayesian-reptile", "--start", "omniglot"]
    train += ["--meta-steps", "1", "--ways", "2", "--shots", "2", "--out", str(out)]
    code, _, error = anole(*train)
    assert (code, "pass the --preset that the checkpoint was trained with" in " ".join(error.split())) == (2, True)
    assert anole(*train, "--preset", "omniglot")[0] == 0
    trained, start = load_checkpoint(out), load_checkpoint("omniglot")
    assert trained.recipe.uncertainty == "bayes"
    assert trained.training["data"]["start"] == start.digest
    assert trained.weights.keys() > start.weights.keys()
