"""The plain loop and the batched loop compute the same, and operations are counted correctly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.measuring import Times
from benchmarks.meta_training_throughput import (
    BATCHED,
    INTRA_OP,
    MATRIX,
    PLAIN,
    STEP_SIZE,
    PlainReptile,
    Setting,
    measure,
    plain_name,
    sides,
    table,
)
from models.config import InnerLoopConfig, preset
from models.meta.outer_loop import MetaTrainingState, inner_seeds
from models.meta.reptile import Reptile
from models.nets import build, heads
from tests.unit.models.conftest import SPEC, random_support

CPU = torch.device("cpu")
SGD = InnerLoopConfig(steps=3, learning_rate=0.01, batch_size=5, head="linear", statistics="batch")
ADAM = replace(SGD, optimiser="adam", learning_rate=0.001)


@pytest.mark.parametrize(
    ("recipe", "tasks"),
    [(SGD, 5), (ADAM, 5), (replace(ADAM, carry_moments=True), 1)],
    ids=["sgd", "adam, reset for each task", "adam, carried over"],
)
def test_both_loops_reach_the_same_weights_on_the_same_draws(recipe: InnerLoopConfig, tasks: int) -> None:
    net, supports = build(SPEC, seed=3), [random_support(seed) for seed in range(tasks)]
    head = heads.linear_head(net.feature_count, 3, torch.Generator().manual_seed(0))
    state = MetaTrainingState({**net.start(), **head})
    plain = PlainReptile(SPEC, recipe, state.start)
    for step in range(3):
        seeds = inner_seeds(0, step, tasks)
        state = Reptile().meta_step(net, state, supports, recipe, STEP_SIZE, seeds)
        plain.meta_step(supports, STEP_SIZE, seeds)
    moved = plain.net.state_dict()
    assert {plain_name(name) for name in state.start} == set(moved)
    for name, tensor in state.start.items():
        torch.testing.assert_close(moved[plain_name(name)], tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_the_operations_of_a_meta_step_equal_a_manual_count() -> None:
    setting = Setting(preset("paper").recipe, 5, 5, 10, CPU)
    first, rest = 14**2 * 64 * 9, (7**2 + 4**2 + 2**2) * 64 * 64 * 9  # multiply-adds of the four convolutions
    passes = 2 * first + 3 * (rest + 256 * 5)  # the first one's input needs no gradient
    assert setting.flops() == 2 * passes * 250


def test_every_side_runs_in_every_round() -> None:
    setting = Setting(replace(SGD, steps=1), 2, 3, 2, CPU)
    assert list(sides(setting)) == [PLAIN, BATCHED, MATRIX]
    assert list(sides(replace(setting, threads=2))) == [PLAIN, BATCHED, INTRA_OP, MATRIX]
    times = measure(setting, 2)
    assert {name: len(side.elapsed_s) for name, side in times.items()} == {PLAIN: 2, BATCHED: 2, MATRIX: 2}


def test_the_ratio_is_the_time_of_the_plain_loop_divided_by_that_of_the_batched_loop() -> None:
    setting = Setting(replace(SGD, steps=1), 2, 3, 2, CPU)
    times = {
        PLAIN: Times([0.3], [0.4]),
        BATCHED: Times([0.1], [0.1]),
        MATRIX: Times([0.01], [0.01]),
    }
    (row,) = [line for line in table(setting, times).splitlines() if line.startswith(f"| {BATCHED} |")]
    assert "| 100.0 | 20.0 | 3.00 | 100.0 | 4.00 |" in row
