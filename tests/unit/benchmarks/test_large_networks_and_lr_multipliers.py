"""Large networks, learning-rate multipliers and half precision: settings, measurements and table rows."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import half_precision, large_networks, lr_multipliers
from benchmarks.large_networks import Cell, Measurement, cells_of, compare, measure_here, random_support, width_of
from benchmarks.lr_multipliers import blocks_of, inner_choices, meta_choices
from benchmarks.measuring import MIB
from benchmarks.meta_comparison import Data
from models import weights as weight_ops
from models.checkpoint import Checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.data.synthetic import Textures
from models.images.preprocessing import ImageConfig
from models.nets import build
from tests.unit.models.conftest import RESNET_SPEC, SPEC, SURFACE_SPEC

CPU = torch.device("cpu")
CELL = Cell(width=2, precision="float32", recompute=False, side=16, batch=10, steps=1, device="cpu", threads=1)


@pytest.mark.parametrize("millions", [1, 10])
def test_a_net_has_about_the_requested_number_of_weights(millions: float) -> None:
    start = build(NetConfig("resnet12", ImageConfig(3, 42), width_of(millions))).start()
    assert sum(tensor.numel() for tensor in start.values()) == pytest.approx(millions * 1e6, rel=0.1)


def test_the_width_is_even_and_at_least_two() -> None:
    assert width_of(100) == 182
    assert width_of(0.001) == 2


def test_float16_is_measured_on_cuda_only() -> None:
    arguments = Namespace(side=16, batch=10, steps=1, threads=1)
    on_cpu, on_cuda = (cells_of(2, arguments, torch.device(name)) for name in ("cpu", "cuda"))
    assert on_cpu[0] == CELL
    assert {cell.precision for cell in on_cpu} == {"float32", "bfloat16"}
    assert {cell.precision for cell in on_cuda} == {"float32", "bfloat16", "float16"}
    assert len(on_cuda) == 6


def test_an_adaptation_is_measured_and_compared_with_the_reference(tmp_path: Path) -> None:
    reference = str(tmp_path / "reference.safetensors")
    exact, again, half = (
        measure_here(cell, reference)
        for cell in (CELL, replace(CELL, recompute=True), replace(CELL, precision="bfloat16"))
    )
    assert (exact.largest, exact.share) == (None, None)
    assert (again.largest, again.share) == (0, 0)
    assert half.largest
    assert half.share
    assert exact.seconds > 0
    assert exact.before_bytes > 10 * MIB


def test_the_difference_is_a_share_of_the_update_of_the_reference(tmp_path: Path) -> None:
    start, exact, other = ({"w": torch.tensor(values)} for values in ([0.0, 0.0], [3.0, 4.0], [3.0, 3.0]))
    assert compare(start, exact, tmp_path / "reference.safetensors") == (None, None)
    largest, share = compare(start, other, tmp_path / "reference.safetensors")
    assert largest == 1.0
    assert share == pytest.approx(0.2)


def test_the_head_is_initialised_from_one_image_per_class() -> None:
    images, labels = random_support(CELL).anchor_inputs()
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert len(images) == 5


def test_a_row_has_ratios_to_the_first_row() -> None:
    first, second = (
        large_networks.Row(replace(CELL, recompute=recompute), [Measurement(1, 0, added, seconds, largest, share)])
        for recompute, added, seconds, largest, share in ((False, 8, 2.0, None, None), (True, 4, 3.0, 0.5, 0.1))
    )
    assert large_networks.line(first, first)[2:] == ("1.00", "2.00", "1.00", "", "")
    assert large_networks.line(second, first)[2:] == ("0.50", "3.00", "1.50", "5.0e-01", "10 %")


@pytest.mark.parametrize("spec", [SPEC, SURFACE_SPEC, RESNET_SPEC], ids=lambda spec: spec.kind)
def test_every_choice_matches_weights_of_every_net(spec: NetConfig) -> None:
    start = build(spec).start()
    names = [*start, "head.weight", "head.bias"]
    choices = inner_choices(blocks_of(start))
    assert choices[0].inner == ()
    for choice in choices:
        multipliers = weight_ops.lr_multipliers_by_name(names, choice.inner)
        assert (set(multipliers.values()) == {1.0}) == (choice is choices[0]), choice.name
    last = next(choice for choice in choices if choice.name == "last block and head")
    moving = {name.split(".")[0] for name, rate in weight_ops.lr_multipliers_by_name(names, last.inner).items() if rate}
    assert moving == {blocks_of(start)[-1], "head"}


def test_choices_for_meta_steps_match_the_trained_net() -> None:
    names = list(build(NetConfig("conv4", ImageConfig(1, 28), 4)).start())
    for choice in meta_choices():
        assert set(weight_ops.lr_multipliers_by_name(names, choice.meta).values()) != {1.0}


@pytest.fixture
def arguments() -> Namespace:
    return Namespace(meta_steps=1, shots=1, episodes=2, rounds=1, seed=0, data_root=None, threads=1)


def test_choices_are_scored_and_timed_and_their_versions_measured(arguments: Namespace) -> None:
    spec, classes = NetConfig("conv4", ImageConfig(1, 16), 4), Textures(16, 1, seed=1, lines=2)
    rows = [
        lr_multipliers.Row(
            choice, Checkpoint("x", spec, InnerLoopConfig(1, 0.1, lr_multipliers=choice.inner), build(spec).start())
        )
        for choice in inner_choices(["block1", "block2", "block3", "block4"])[:4]
    ]
    lr_multipliers.measure(rows, classes, arguments)
    assert all(len(row.accuracies) == 2 and row.adapt_s and row.version_bytes for row in rows)
    head_only = rows[3]
    assert head_only.version_bytes < rows[0].version_bytes
    assert lr_multipliers.line(head_only, rows[0])[0] == "head only (as ANIL)"
    diverged = lr_multipliers.Row(rows[0].choice, None, note="diverged at meta step 1")
    assert lr_multipliers.line(diverged, rows[0])[1] == "diverged at meta step 1"


def test_a_short_training_uses_its_multipliers(arguments: Namespace) -> None:
    textures = Textures(28, 1, seed=0, lines=3)
    choice = lr_multipliers.Choice("x", (("block*", 0.1),), (("block1.*", 0.0),))
    row = lr_multipliers.trained(choice, Data("textures", textures, textures), arguments)
    assert row.start is not None
    assert row.start.recipe.lr_multipliers == choice.inner
    untouched = build(row.start.net_config, 0).start()
    changed = weight_ops.changed(untouched, row.start.weights)
    assert changed
    assert not any(name.startswith("block1.") for name in changed)


def test_every_operation_runs_in_both_precisions() -> None:
    operations = half_precision.operations(batch=2, side=16)
    for operation in operations[1:2] + operations[4:]:
        name, full, half, *_ = half_precision.line(operation, rounds=1)
        assert name == operation.name
        assert float(full) >= 0
        assert float(half) >= 0


def test_a_convolution_counts_the_operations_of_its_three_passes() -> None:
    plain, grouped = (half_precision.convolution("x", (tasks, 64, 10, 14)).flop for tasks in (1, 5))
    assert plain == 3 * 2 * 10 * 14 * 14 * 64 * 64 * 9
    assert grouped == 5 * plain
