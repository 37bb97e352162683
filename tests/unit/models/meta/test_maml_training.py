"""Training with MAML and FOMAML: splitting a support, settings, the outer Adam, resuming, the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import weights as weight_ops
from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.data.class_dataset import ArrayDataset
from models.errors import AdaptationDiverged, InvalidConfig, InvalidTask
from models.meta.maml import Maml, adam_step, split_support_query
from models.meta.outer_loop import AdamState, MetaTrainingState, inner_seeds, meta_train
from models.meta.reptile import Reptile
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset, make_meta_step
from models.nets import Net, build, heads
from models.task import Support
from service.cli import main as cli
from tests.unit.models.conftest import SPEC, MakeSupport

MAML, FOMAML = Maml(second_order=True), Maml(second_order=False)
SGD = InnerLoopConfig(steps=2, learning_rate=0.05, batch_size=6)
CPU = torch.device("cpu")


def test_the_last_images_of_each_class_become_queries(make_support: MakeSupport) -> None:
    support = make_support(1, n_way=3, n_shot=5)
    anchored = replace(support, anchors=torch.tensor([0, 5, 10]))
    inner, query = split_support_query(anchored)
    assert (inner.labels.tolist(), query.labels.tolist()) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 2, 2])
    assert torch.equal(inner.inputs, support.inputs[[0, 1, 2, 5, 6, 7, 10, 11, 12]])
    assert torch.equal(query.inputs, support.inputs[[3, 4, 8, 9, 13, 14]])
    assert torch.equal(inner.anchor_inputs()[0], anchored.anchor_inputs()[0])
    assert len(split_support_query(support, 4)[1]) == 12


def test_a_support_that_cannot_be_split_raises_invalid_task(make_support: MakeSupport) -> None:
    with pytest.raises(InvalidTask, match="a class has 1 images, which cannot be split"):
        split_support_query(make_support(1, n_shot=1))
    with pytest.raises(InvalidTask, match="5 queries"):
        split_support_query(make_support(1, n_shot=5), 5)
    with pytest.raises(InvalidTask, match="an anchor is among the last 2"):
        split_support_query(replace(make_support(1, n_way=2, n_shot=4), anchors=torch.tensor([0, 7])))


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "nonsense"},
        {"query_shots": 2},
        {"algorithm": "maml", "train_shots": 1},
        {"algorithm": "maml", "query_shots": 10},
        {"algorithm": "maml", "anchor_shots": 9},
        {"algorithm": "fomaml", "outer_learning_rate": 0.0},
    ],
)
def test_invalid_settings_are_rejected(change: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        MetaTrainingConfig.from_json({"meta_steps": 1, **change})


def test_the_json_of_a_reptile_config_has_no_maml_fields() -> None:
    assert set(MetaTrainingConfig(meta_steps=1).to_json()).isdisjoint(
        {"algorithm", "outer_learning_rate", "query_shots"}
    )
    maml = MetaTrainingConfig(meta_steps=1, algorithm="maml", query_shots=3)
    assert MetaTrainingConfig.from_json(maml.to_json()) == maml


def test_reptile_is_the_default_algorithm(conv4: Net, make_support: MakeSupport) -> None:
    state, support = MetaTrainingState(conv4.start()), make_support(1)
    default, reptile = (
        step(conv4, state, [support], SGD, 0.5, [0])
        for step in (make_meta_step(MetaTrainingConfig(meta_steps=1)), Reptile().meta_step)
    )
    assert weight_ops.digest(default.start) == weight_ops.digest(reptile.start)


def test_second_order_with_an_adam_inner_loop_is_rejected(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=1, learning_rate=0.001, optimiser="adam", carry_moments=True)
    with pytest.raises(InvalidConfig, match="use the sgd optimiser or the fomaml"):
        MAML.meta_step(conv4, MetaTrainingState(conv4.start()), [make_support(1)], recipe, 1.0, [0])
    state = FOMAML.meta_step(conv4, MetaTrainingState(conv4.start()), [make_support(1)], recipe, 1.0, [0])
    assert state.moments is not None
    assert state.moments.steps == 1


def test_divergence_raises_and_leaves_the_state_unchanged(conv4: Net, make_support: MakeSupport) -> None:
    state = MetaTrainingState(conv4.start())
    before = weight_ops.digest(state.start)
    with pytest.raises(AdaptationDiverged):
        MAML.meta_step(conv4, state, [make_support(1)], replace(SGD, learning_rate=1e30, steps=4), 1.0, [0])
    assert weight_ops.digest(state.start) == before


def test_the_outer_adam_matches_torch_optim_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(5, generator=generator) for _ in range(4)]
    start: dict[str, Tensor] = {"w": torch.ones(5)}
    reference = torch.ones(5, requires_grad=True)
    optimiser = torch.optim.Adam([reference], lr=0.01)
    state: AdamState | None = None
    for gradient in gradients:
        start, state = adam_step(start, {"w": gradient}, state, 0.01)
        reference.grad = gradient.clone()
        optimiser.step()
    torch.testing.assert_close(start["w"], reference.detach())


@pytest.mark.parametrize("algorithm", ["maml", "fomaml"])
@pytest.mark.parametrize("head", ["prototype", "linear"])
def test_training_lowers_the_query_loss(algorithm: str, head: str, make_support: MakeSupport) -> None:
    net = build(SPEC, seed=3)
    start = net.start()
    if head == "linear":
        start |= heads.linear_head(net.feature_count, 3, torch.Generator().manual_seed(1))
    meta = MetaTrainingConfig.from_json(
        {"meta_steps": 40, "meta_batch": 4, "algorithm": algorithm, "outer_learning_rate": 0.01}
    )

    def source(step: int) -> Sequence[Support]:
        return [make_support(seed) for seed in inner_seeds(1, step, meta.meta_batch)]

    recipe = InnerLoopConfig.from_json({**SGD.to_json(), "head": head})
    losses = [
        state.loss for state in meta_train(net, MetaTrainingState(start), source, recipe, meta, make_meta_step(meta))
    ]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


@pytest.mark.parametrize("algorithm", ["maml", "fomaml"])
def test_a_resumed_run_ends_with_the_same_bits(algorithm: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.randint(256, (6, 1, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(6)]
    datasets = [WeightedDataset(ArrayDataset("noise", [str(index) for index in range(6)], arrays))]
    loop = {"meta_steps": 5, "meta_batch": 2, "n_way": 3, "train_shots": 4, "algorithm": algorithm}
    config = TrainingRunConfig(SPEC, SGD, MetaTrainingConfig.from_json(loop), {"name": "noise"})

    uninterrupted = TrainingRun(config, SGD, tmp_path / "uninterrupted.safetensors", CPU)
    list(uninterrupted.run(datasets))
    stopped = TrainingRun(config, SGD, tmp_path / "stopped.safetensors", CPU)
    steps = stopped.run(datasets)
    assert [next(steps).meta_step for _ in range(3)] == [1, 2, 3]
    half = stopped.save()
    assert half.outer_adam is not None
    resumed = TrainingRun(config, SGD, tmp_path / "stopped.safetensors", CPU)
    assert resumed.state.outer_adam is not None
    assert resumed.state.outer_adam.steps == 3
    list(resumed.run(datasets))
    ends = [load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("uninterrupted", "stopped")]
    assert ends[0].digest == ends[1].digest
    assert ends[0].digest != half.digest
    assert ends[0].outer_adam is None


@pytest.mark.usefixtures("small_presets")
@pytest.mark.parametrize("algorithm", ["reptile", "fomaml", "maml"])
def test_the_command_line_trains_with_each_algorithm(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.safetensors"
    line = f"train --dataset textures --algorithm {algorithm} --learning-rate 0.02 --ways 2 --shots 2 --meta-steps 2"
    monkeypatch.setattr(sys, "argv", ["anole", *line.split(), "--device", "cpu", "--out", str(out)])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert not exited.value.code, capsys.readouterr().err
    trained = load_checkpoint(out).training
    assert trained["data"]["algorithm"] == algorithm
    assert trained["recipe"]["learning_rate"] == 0.02
    assert trained["meta"].get("algorithm", "reptile") == algorithm
