"""Checkpoints and training runs: round trips, rejected files, resuming."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import weights as weight_ops
from models.adaptation.optimisers import Moments
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, shipped_names
from models.config import PRESETS, InnerLoopConfig, MetaTrainingConfig, NetConfig, preset
from models.data.class_dataset import ArrayDataset
from models.errors import CheckpointInvalid, InvalidConfig
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset, task_source
from models.nets import build
from tests.unit.models.conftest import SPEC

CPU = torch.device("cpu")
RECIPE = InnerLoopConfig(steps=2, learning_rate=0.01, batch_size=4, lr_multipliers=(("head.*", 2.0),))
ADAM = replace(RECIPE, optimiser="adam", carry_moments=True, lr_multipliers=())
SERVE = InnerLoopConfig(steps=5, learning_rate=0.01)


@pytest.fixture
def checkpoint() -> Checkpoint:
    start = build(SPEC).start()
    moments = Moments({name: torch.ones_like(tensor) for name, tensor in start.items()}, 7)
    return Checkpoint("small", SPEC, ADAM, start, moments, {"meta_step": 3})


@pytest.fixture
def dataset() -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.randint(256, (6, 1, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(6)]
    return ArrayDataset("noise", [str(index) for index in range(6)], arrays)


def test_a_checkpoint_survives_saving_and_loading(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(checkpoint, path)
    loaded = load_checkpoint(path)
    assert loaded.digest == checkpoint.digest
    assert (loaded.net_config, loaded.recipe, dict(loaded.training)) == (SPEC, ADAM, {"meta_step": 3})
    assert loaded.moments is not None
    assert loaded.moments.steps == 7
    assert weight_ops.digest(loaded.moments.second) == weight_ops.digest(
        checkpoint.moments.second if checkpoint.moments else {}
    )


def test_a_checkpoint_moves_to_a_device_with_weights_and_moments(checkpoint: Checkpoint) -> None:
    moved = checkpoint.on(torch.device("meta"))
    assert moved.moments is not None
    tensors = [*moved.weights.values(), *moved.moments.second.values()]
    assert len(tensors) == 2 * len(checkpoint.weights)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {tensor.device.type for tensor in checkpoint.weights.values()} == {"cpu"}


def test_the_digest_covers_weights_recipe_net_and_moments(checkpoint: Checkpoint) -> None:
    other_weights = {**checkpoint.weights, "block1.shift": checkpoint.weights["block1.shift"] + 1}
    variants = [
        checkpoint,
        replace(checkpoint, weights=other_weights),
        replace(checkpoint, recipe=replace(ADAM, steps=3)),
        replace(checkpoint, net_config=replace(SPEC, width=16)),
        replace(checkpoint, moments=None),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)
    assert replace(checkpoint, name="other", training={}).digest == checkpoint.digest


@pytest.mark.parametrize("offset", [20, -5], ids=["header", "weights"])
def test_a_flipped_bit_is_rejected(checkpoint: Checkpoint, tmp_path: Path, offset: int) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(checkpoint, path)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointInvalid, match=r"damaged|not a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not tensors at all", b"\x08" + b"\0" * 7 + b"{}      "])
def test_a_file_that_is_no_checkpoint_is_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointInvalid, match="not a checkpoint"):
        load_checkpoint(path)


def test_an_unknown_name_is_rejected_with_the_shipped_names() -> None:
    with pytest.raises(CheckpointInvalid, match="no checkpoint 'unknown'"):
        load_checkpoint("unknown")


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_checkpoints_load_and_have_a_card(name: str) -> None:
    checkpoint = load_checkpoint(name)
    path = Path(load_checkpoint.__code__.co_filename).parent / "pretrained" / f"{name}.md"
    card = path.read_text(encoding="utf-8")
    assert checkpoint.digest[:12] in card
    assert "licence" in card.lower()
    if checkpoint.net_config.kind == "backbone":
        assert checkpoint.training["licence"] in card
    else:
        assert checkpoint.training["meta_step"] == checkpoint.training["meta"]["meta_steps"]


@pytest.mark.parametrize("record", [SPEC, RECIPE, ADAM, MetaTrainingConfig(meta_steps=5, n_way=3)])
def test_configs_survive_json(record: NetConfig | InnerLoopConfig | MetaTrainingConfig) -> None:
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", -1),
        ("learning_rate", float("nan")),
        ("learning_rate", 1e39),
        ("head_scale", 1e39),
        ("batch_size", 0),
        ("optimiser", "lbfgs"),
        ("clip_norm", 0.0),
    ],
)
def test_an_out_of_range_value_is_rejected_with_its_field_name(field: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=field):
        InnerLoopConfig.from_json({**RECIPE.to_json(), field: value})


def test_learning_rates_by_layer_fit_float32() -> None:
    with pytest.raises(InvalidConfig, match="lr_multipliers of 'block"):
        replace(RECIPE, lr_multipliers=(("block*", 1e39),))
    recipe = replace(RECIPE, learning_rate=1.0, lr_multipliers=(("block*", 10.0),))
    with pytest.raises(InvalidConfig, match=r"learning_rate times lr_multipliers of 'block\*' is 1e\+39"):
        recipe.adjusted(None, 1e38)


@pytest.mark.parametrize("field", ["final_step_size", "outer_learning_rate"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 1e39])
def test_learning_rates_of_meta_training_fit_float32(field: str, value: float) -> None:
    with pytest.raises(InvalidConfig, match=field):
        MetaTrainingConfig.from_json({"meta_steps": 5, field: value})


def test_an_unknown_field_is_rejected() -> None:
    with pytest.raises(InvalidConfig, match="momentum"):
        InnerLoopConfig.from_json({**RECIPE.to_json(), "momentum": 0.9})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_their_nets(name: str) -> None:
    chosen = preset(name)
    assert build(chosen.net_config).feature_count > 0
    with pytest.raises(InvalidConfig, match="no preset"):
        preset(name + "x")


@pytest.mark.parametrize("shares", [(0.0, 0.0), (1.0, math.inf), (1e39, 1.0)])
def test_shares_that_no_task_can_be_drawn_by_are_rejected(dataset: ArrayDataset, shares: tuple[float, float]) -> None:
    with pytest.raises(InvalidConfig, match="the shares of the data sets are"):
        task_source([WeightedDataset(dataset, share) for share in shares], SPEC, MetaTrainingConfig(1), CPU)


class TickingClock:
    """A clock that advances by a fixed step on every reading."""

    def __init__(self, step_s: float) -> None:
        self._now, self._step_s = 0.0, step_s

    def __call__(self) -> float:
        self._now += self._step_s
        return self._now


@pytest.fixture(params=[RECIPE, ADAM, replace(RECIPE, head="linear")], ids=["sgd", "adam", "linear head"])
def config(request: pytest.FixtureRequest) -> TrainingRunConfig:
    return TrainingRunConfig(
        SPEC, request.param, MetaTrainingConfig(meta_steps=6, meta_batch=2, n_way=3, train_shots=3), {"name": "x"}
    )


def test_an_interrupted_run_resumes_to_the_same_result(
    config: TrainingRunConfig, dataset: ArrayDataset, tmp_path: Path
) -> None:
    uninterrupted = TrainingRun(config, SERVE, tmp_path / "uninterrupted.safetensors", CPU)
    list(uninterrupted.run([WeightedDataset(dataset)]))
    interrupted = TrainingRun(config, SERVE, tmp_path / "interrupted.safetensors", CPU).run(
        [WeightedDataset(dataset)], 1.0, TickingClock(0.4)
    )
    for progress in interrupted:
        if progress.meta_step == 4:
            break
    resumed = TrainingRun(config, SERVE, tmp_path / "interrupted.safetensors", CPU)
    assert 0 < resumed.state.meta_step <= 4
    list(resumed.run([WeightedDataset(dataset)]))
    first, second = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("uninterrupted", "interrupted"))
    assert first.digest == second.digest
    curves = [
        (tmp_path / f"{name}.csv").read_text().splitlines()[-1].split(",")[0]
        for name in ("uninterrupted", "interrupted")
    ]
    assert curves == ["6", "6"]


def test_the_checkpoint_of_another_run_is_not_overwritten(
    config: TrainingRunConfig, dataset: ArrayDataset, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    list(TrainingRun(config, SERVE, path, CPU).run([WeightedDataset(dataset)]))
    other = replace(config, meta=replace(config.meta, seed=1))
    with pytest.raises(CheckpointInvalid, match="meta differ"):
        TrainingRun(other, SERVE, path, CPU)


def test_a_finished_run_accepts_another_serving_recipe(
    config: TrainingRunConfig, dataset: ArrayDataset, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    list(TrainingRun(config, SERVE, path, CPU).run([WeightedDataset(dataset)]))
    list(TrainingRun(config, replace(SERVE, steps=9), path, CPU).run([WeightedDataset(dataset)]))
    assert load_checkpoint(path).recipe.steps == 9
