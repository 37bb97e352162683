"""That the plain loop and the one here do the same arithmetic, and that its operations are counted right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.meta_training_throughput import (
    INSIDE,
    MATRIX,
    OURS,
    PLAIN,
    STEP_SIZE,
    Times,
    Work,
    measured,
    print_table,
    sides,
)
from benchmarks.plain_reptile import PlainReptile, plain_name
from models.config import InnerLoopConfig, preset
from models.meta.reptile import MetaTrainingState, Reptile, inner_seeds
from models.nets import build, heads
from tests.unit.models.conftest import SPEC, random_support

CPU = torch.device("cpu")
SGD = InnerLoopConfig(steps=3, learning_rate=0.01, batch_size=5, head="linear", statistics="batch")
ADAM = replace(SGD, optimiser="adam", learning_rate=0.001)


@pytest.mark.parametrize(
    ("recipe", "tasks"),
    [(SGD, 5), (ADAM, 5), (replace(ADAM, carry_moments=True), 1)],
    ids=["sgd", "adam, anew with each task", "adam, carried from meta step to meta step"],
)
def test_both_sides_reach_the_same_weights(recipe: InnerLoopConfig, tasks: int) -> None:
    net, supports = build(SPEC, seed=3), [random_support(seed) for seed in range(tasks)]
    head = heads.linear_head(net.feature_count, 3, torch.Generator().manual_seed(0))
    state = MetaTrainingState({**net.start(), **head})
    plain = PlainReptile(SPEC, recipe, state.start)
    for step in range(3):
        seeds = inner_seeds(0, step, tasks)
        state = Reptile().meta_step(net, state, supports, recipe, STEP_SIZE, seeds)
        plain.meta_step(supports, STEP_SIZE, seeds)
    moved = plain.start()
    assert {plain_name(name) for name in state.start} == set(moved)
    for name, tensor in state.start.items():
        torch.testing.assert_close(moved[plain_name(name)], tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_the_operations_of_a_meta_step_match_a_count_by_hand() -> None:
    work = Work(preset("paper").recipe, 5, 5, 10, CPU)
    first, rest = 14**2 * 64 * 9, (7**2 + 4**2 + 2**2) * 64 * 64 * 9  # multiply-adds of the four convolutions
    passes = 2 * first + 3 * (rest + 256 * 5)  # the first one's input needs no gradient
    assert work.flops() == 2 * passes * 250


def test_the_sides_of_the_benchmark_alternate() -> None:
    work = Work(replace(SGD, steps=1), 2, 3, 2, CPU)
    assert list(sides(work)) == [PLAIN, OURS, MATRIX]
    assert list(sides(replace(work, threads=2))) == [PLAIN, OURS, INSIDE, MATRIX]
    times = measured(work, 2)
    assert {name: len(side.elapsed_s) for name, side in times.items()} == {PLAIN: 2, OURS: 2, MATRIX: 2}


def test_the_ratio_is_the_plain_loops_time_over_ours(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(replace(SGD, steps=1), 2, 3, 2, CPU)
    times = {
        PLAIN: Times([0.3], [0.4]),
        OURS: Times([0.1], [0.1]),
        MATRIX: Times([0.01], [0.01]),
    }
    print_table(work, times)
    ours = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {OURS} |"))
    assert "| 100.0 | 20.0 | 3.00 | 100.0 | 4.00 |" in ours
