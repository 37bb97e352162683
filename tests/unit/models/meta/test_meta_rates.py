"""Meta learning rates by layer, for every algorithm; settings that match nothing; the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from models import weights as algebra
from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.errors import InvalidConfig
from models.meta.maml import meta_step_of
from models.meta.reptile import MetaTrainingState
from models.meta.training import TrainingPlan, TrainingRun
from models.nets import Net, heads
from service.cli import main as cli
from tests.unit.models.conftest import SPEC, MakeSupport

Algorithm = Literal["reptile", "fomaml", "maml"]
ALGORITHMS: tuple[Algorithm, ...] = ("reptile", "fomaml", "maml")
SGD = InnerLoopConfig(steps=2, learning_rate=0.01, batch_size=6)
RATES = (("*", 0.25), ("block1.*", 0.0), ("block4*.weight", 3.0))
CPU = torch.device("cpu")


def multiplier(name: str) -> float:
    heavy = name.startswith("block4") and name.endswith(".weight")
    return 0.0 if name.startswith("block1.") else 3.0 if heavy else 0.25


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_weight_goes_its_share_of_the_move(algorithm: Algorithm, net: Net, make_support: MakeSupport) -> None:
    start, supports = net.start(), [make_support(1), make_support(2)]
    plain, scaled = (
        meta_step_of(MetaTrainingConfig(1, algorithm=algorithm, rates=rates))(
            net, MetaTrainingState(start), supports, SGD, 0.5, [4, 5]
        )
        for rates in ((), RATES)
    )
    assert (plain.loss, plain.meta_step) == (scaled.loss, scaled.meta_step)
    for name, move in algebra.subtract(plain.start, start).items():
        expected = start[name] + multiplier(name) * move
        torch.testing.assert_close(scaled.start[name], expected, rtol=1e-5, atol=1e-7, msg=name)
        assert torch.equal(scaled.start[name], start[name]) == (multiplier(name) == 0), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rates_of_one_are_no_rates(algorithm: Algorithm, conv4: Net, make_support: MakeSupport) -> None:
    plain, scaled = (
        meta_step_of(MetaTrainingConfig(1, algorithm=algorithm, rates=rates))(
            conv4, MetaTrainingState(conv4.start()), [make_support(1)], SGD, 0.5, [4]
        )
        for rates in ((), (("block*", 1.0),))
    )
    assert algebra.digest(plain.start) == algebra.digest(scaled.start)


def test_a_meta_trained_head_has_a_rate_of_its_own(conv4: Net, make_support: MakeSupport) -> None:
    head = heads.linear_head(conv4.feature_count, 3, torch.Generator().manual_seed(0))
    start = {**conv4.start(), **head}
    meta = MetaTrainingConfig(1, rates=(("*", 0.0), ("head.*", 1.0)))
    recipe = InnerLoopConfig(steps=2, learning_rate=0.01, batch_size=6, head="linear")
    moved = meta_step_of(meta)(conv4, MetaTrainingState(start), [make_support(1)], recipe, 1.0, [4]).start
    assert set(algebra.changed(start, moved)) == {heads.WEIGHT, heads.BIAS}


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_real_names(
    conv4: Net, make_support: MakeSupport
) -> None:
    meta = MetaTrainingConfig(1, rates=(("attention*", 1.0),))
    with pytest.raises(InvalidConfig, match=r"'attention\*' matches no weight; the names are block1\.weight, block1"):
        meta_step_of(meta)(conv4, MetaTrainingState(conv4.start()), [make_support(1)], SGD, 1.0, [4])


@pytest.mark.parametrize(
    ("inner", "meta", "serve"),
    [((("x*", 1.0),), (), ()), ((), (("x*", 1.0),), ()), ((), (("head.*", 1.0),), ()), ((), (), (("x*", 1.0),))],
    ids=["inner", "meta", "a prototype head has no meta rate", "serving"],
)
def test_a_training_finds_an_unmatched_pattern_before_it_begins(
    inner: object, meta: object, serve: object, tmp_path: Path
) -> None:
    loops = [InnerLoopConfig.from_json({**SGD.to_json(), "rates": rates}) for rates in (inner, serve)]
    plan = TrainingPlan(SPEC, loops[0], MetaTrainingConfig.from_json({"meta_steps": 1, "rates": meta}), {})
    with pytest.raises(InvalidConfig, match="matches no weight"):
        TrainingRun(plan, loops[1], tmp_path / "run.safetensors", CPU)


def test_a_training_finds_a_precision_that_cannot_be_before_it_begins(tmp_path: Path) -> None:
    recipe = InnerLoopConfig(steps=1, learning_rate=0.1, precision="float16")
    with pytest.raises(InvalidConfig, match="float16"):
        TrainingRun(TrainingPlan(SPEC, recipe, MetaTrainingConfig(1), {}), SGD, tmp_path / "run.safetensors", CPU)


def test_meta_rates_survive_json_and_are_silent_by_default() -> None:
    meta = MetaTrainingConfig(meta_steps=3, rates=RATES)
    data = json.loads(json.dumps(meta.to_json()))
    assert data == meta.to_json()
    assert MetaTrainingConfig.from_json(data) == meta
    assert "rates" not in MetaTrainingConfig(meta_steps=3).to_json()


@pytest.mark.parametrize("rates", [[["*", -1.0]], [["*", float("nan")]], [["*", float("inf")]]])
@pytest.mark.parametrize("record", [MetaTrainingConfig(1), SGD])
def test_a_multiplier_is_a_finite_number_from_0(
    record: MetaTrainingConfig | InnerLoopConfig, rates: list[list[object]]
) -> None:
    with pytest.raises(InvalidConfig, match="rates"):
        type(record).from_json({**record.to_json(), "rates": rates})


def train(monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> int | str | None:
    line = "train --dataset textures --ways 2 --shots 2 --meta-steps 2 --device cpu --out"
    monkeypatch.setattr(sys, "argv", ["anole", *line.split(), str(out), *options])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    return exited.value.code


def test_the_command_line_takes_rates_precision_and_recomputation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.safetensors"
    options = "--inner-rate block*=0.1 --inner-rate head.*=3 --meta-rate block1.*=0 --precision bfloat16 --recompute"
    for _ in range(2):  # the second time it goes on from what the first one wrote
        assert not train(monkeypatch, out, *options.split()), capsys.readouterr().err
    made = load_checkpoint(out)
    assert made.recipe.rates == (("block*", 0.1), ("head.*", 3.0))
    assert (made.recipe.precision, made.recipe.recompute) == ("bfloat16", True)
    assert made.training["recipe"]["rates"] == [["block*", 0.1], ["head.*", 3.0]]
    assert made.training["recipe"]["precision"] == "bfloat16"
    assert made.training["meta"]["rates"] == [["block1.*", 0.0]]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--inner-rate", "block*"), 2, "give PATTERN=X"),
        (("--meta-rate", "block*=fast"), 2, "give PATTERN=X"),
        (("--meta-rate", "=2"), 2, "give PATTERN=X"),
        (("--meta-rate", "attention*=2"), 1, "matches no weight; the names are block1.weight"),
        (("--precision", "float16"), 1, "allowed there: float32, bfloat16"),
    ],
)
def test_what_the_command_line_cannot_use_is_one_line(
    options: tuple[str, ...],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert train(monkeypatch, tmp_path / "run.safetensors", *options) == code
    assert said in capsys.readouterr().err
