"""Learning-rate multipliers by layer: in meta-training with each algorithm, validation, and the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from models import weights as weight_ops
from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.errors import InvalidConfig
from models.meta.outer_loop import MetaTrainingState, meta_train
from models.meta.training import TrainingRun, TrainingRunConfig, make_meta_step
from models.nets import Net, heads
from models.task import Support
from models.weights import Weights
from service.cli import main as cli
from tests.unit.models.conftest import SPEC, MakeSupport

Algorithm = Literal["reptile", "fomaml", "maml"]
ALGORITHMS: tuple[Algorithm, ...] = ("reptile", "fomaml", "maml")
SGD = InnerLoopConfig(steps=2, learning_rate=0.01, batch_size=6)
RATES = (("*", 0.25), ("block1.*", 0.0), ("block3*.weight", 3.0))
CPU = torch.device("cpu")


def multiplier(name: str) -> float:
    heavy = name.startswith("block3") and name.endswith(".weight")
    return 0.0 if name.startswith("block1.") else 3.0 if heavy else 0.25


def one_meta_step(
    net: Net, meta: MetaTrainingConfig, start: Weights, supports: list[Support], recipe: InnerLoopConfig = SGD
) -> MetaTrainingState:
    """Run the only meta step of `meta`."""
    (state,) = meta_train(net, MetaTrainingState(start), lambda step: supports, recipe, meta, make_meta_step(meta))
    return state


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_multipliers_scale_the_update_of_each_weight(algorithm: Algorithm, net: Net, make_support: MakeSupport) -> None:
    start, supports = net.start(), [make_support(1), make_support(2)]
    plain, scaled = (
        one_meta_step(
            net, MetaTrainingConfig(1, algorithm=algorithm, step_size=0.5, lr_multipliers=rates), start, supports
        )
        for rates in ((), RATES)
    )
    assert (plain.loss, plain.meta_step) == (scaled.loss, scaled.meta_step)
    for name, move in weight_ops.subtract(plain.start, start).items():
        expected = start[name] + multiplier(name) * move
        torch.testing.assert_close(scaled.start[name], expected, rtol=1e-5, atol=1e-7, msg=name)
        assert torch.equal(scaled.start[name], start[name]) == (multiplier(name) == 0), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_multipliers_of_one_change_nothing(algorithm: Algorithm, conv4: Net, make_support: MakeSupport) -> None:
    plain, scaled = (
        one_meta_step(
            conv4, MetaTrainingConfig(1, algorithm=algorithm, lr_multipliers=rates), conv4.start(), [make_support(1)]
        )
        for rates in ((), (("block*", 1.0),))
    )
    assert weight_ops.digest(plain.start) == weight_ops.digest(scaled.start)


def test_a_meta_trained_head_has_its_own_multiplier(conv4: Net, make_support: MakeSupport) -> None:
    head = heads.linear_head(conv4.feature_count, 3, torch.Generator().manual_seed(0))
    start = {**conv4.start(), **head}
    meta = MetaTrainingConfig(1, lr_multipliers=(("*", 0.0), ("head.*", 1.0)))
    recipe = InnerLoopConfig(steps=2, learning_rate=0.01, batch_size=6, head="linear")
    moved = one_meta_step(conv4, meta, start, [make_support(1)], recipe).start
    assert set(weight_ops.changed(start, moved)) == {heads.WEIGHT, heads.BIAS}


def test_a_pattern_that_matches_no_weight_raises_and_lists_the_names(conv4: Net, make_support: MakeSupport) -> None:
    meta = MetaTrainingConfig(1, lr_multipliers=(("attention*", 1.0),))
    with pytest.raises(InvalidConfig, match=r"'attention\*' matches no weight; the names are block1\.weight, block1"):
        one_meta_step(conv4, meta, conv4.start(), [make_support(1)])


@pytest.mark.parametrize(
    ("inner", "meta", "serve"),
    [((("x*", 1.0),), (), ()), ((), (("x*", 1.0),), ()), ((), (("head.*", 1.0),), ()), ((), (), (("x*", 1.0),))],
    ids=["inner", "meta", "meta, for a prototype head", "serving"],
)
def test_an_unmatched_pattern_is_rejected_before_training(
    inner: object, meta: object, serve: object, tmp_path: Path
) -> None:
    loops = [InnerLoopConfig.from_json({**SGD.to_json(), "rates": rates}) for rates in (inner, serve)]
    config = TrainingRunConfig(SPEC, loops[0], MetaTrainingConfig.from_json({"meta_steps": 1, "rates": meta}), {})
    with pytest.raises(InvalidConfig, match="matches no weight"):
        TrainingRun(config, loops[1], tmp_path / "run.safetensors", CPU)


def test_an_unsupported_precision_is_rejected_before_training(tmp_path: Path) -> None:
    recipe = InnerLoopConfig(steps=1, learning_rate=0.1, precision="float16")
    with pytest.raises(InvalidConfig, match="float16"):
        TrainingRun(TrainingRunConfig(SPEC, recipe, MetaTrainingConfig(1), {}), SGD, tmp_path / "run.safetensors", CPU)


def test_multipliers_survive_json_and_are_omitted_when_empty() -> None:
    meta = MetaTrainingConfig(meta_steps=3, lr_multipliers=RATES)
    data = json.loads(json.dumps(meta.to_json()))
    assert data == meta.to_json()
    assert MetaTrainingConfig.from_json(data) == meta
    assert "rates" not in MetaTrainingConfig(meta_steps=3).to_json()


@pytest.mark.parametrize("rates", [[["*", -1.0]], [["*", float("nan")]], [["*", float("inf")]]])
@pytest.mark.parametrize("record", [MetaTrainingConfig(1), SGD])
def test_a_multiplier_must_be_finite_and_not_negative(
    record: MetaTrainingConfig | InnerLoopConfig, rates: list[list[object]]
) -> None:
    with pytest.raises(InvalidConfig, match="lr_multipliers"):
        type(record).from_json({**record.to_json(), "rates": rates})


def train(monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> int | str | None:
    line = "train --dataset textures --ways 2 --shots 2 --meta-steps 2 --device cpu --out"
    monkeypatch.setattr(sys, "argv", ["anole", *line.split(), str(out), *options])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    return exited.value.code


@pytest.mark.usefixtures("small_presets")
def test_the_command_line_accepts_multipliers_precision_and_recomputation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.safetensors"
    rates = "--inner-rate block*=0.1 --inner-rate head.*=3 --meta-rate block1.*=0"
    options = f"--preset paper {rates} --precision bfloat16 --recompute"
    for _ in range(2):  # the second run resumes from the checkpoint of the first
        assert not train(monkeypatch, out, *options.split()), capsys.readouterr().err
    made = load_checkpoint(out)
    assert made.recipe.lr_multipliers == (("block*", 0.1), ("head.*", 3.0))
    assert (made.recipe.precision, made.recipe.recompute) == ("bfloat16", True)
    assert made.training["recipe"]["rates"] == [["block*", 0.1], ["head.*", 3.0]]
    assert made.training["recipe"]["precision"] == "bfloat16"
    assert made.training["meta"]["rates"] == [["block1.*", 0.0]]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--inner-rate", "block*"), 2, "give PATTERN=X"),
        (("--meta-rate", "block*=fast"), 2, "give PATTERN=X"),
        (("--meta-rate", "=2"), 2, "give PATTERN=X"),
        (("--meta-rate", "attention*=2"), 1, "matches no weight; the names are block1.weight"),
        (("--precision", "float16"), 1, "allowed there: float32, bfloat16"),
    ],
)
def test_invalid_options_are_reported(
    options: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert train(monkeypatch, tmp_path / "run.safetensors", *options) == code
    assert message in capsys.readouterr().err
