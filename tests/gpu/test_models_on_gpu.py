"""Inner loops and meta steps on a GPU give what they give on the CPU, but for rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import weights as weight_ops
from models.adaptation.adapt import Adapted, InnerLoopInput, adapt_inputs, adapt_one
from models.adaptation.inner_loop import InnerLoopResult, run_inner_loop
from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig, Precision
from models.data.class_dataset import ArrayDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.images.preprocessing import ImageConfig
from models.meta.evaluation import EvaluationConfig, evaluate
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset
from models.nets import build
from models.task import Support
from models.weights import Weights

CPU, GPU = torch.device("cpu"), torch.device("cuda")
IMAGE = ImageConfig(channels=1, side=16, contrast="none")
NETS = {
    "conv4": NetConfig("conv4", IMAGE, width=8),
    "surface": NetConfig("surface", IMAGE, width=16),
    "resnet12": NetConfig("resnet12", IMAGE, width=4),
}
SGD = InnerLoopConfig(steps=4, learning_rate=0.005, batch_size=6)
DIFFERENCE = 0.5
"""Largest length of the difference between results, as a share of what adaptation changed. Without any change on one
side it is 1. Steps of untrained nets magnify rounding."""

RECIPES = {
    "prototypes": SGD,
    "adam": replace(SGD, optimiser="adam", learning_rate=1e-3),
    "linear head": replace(SGD, head="linear"),
    "lda": replace(SGD, head="lda"),
    "lda without steps": replace(SGD, head="lda", steps=0, feature_gains="fisher"),
    "flips": replace(SGD, flip_augment=True, batch_size=24),
    "statistics of the batch": replace(SGD, statistics="batch"),
    "recomputed": replace(SGD, recompute=True),
}


@pytest.fixture(autouse=True)
def exact_matrix_products() -> Iterator[None]:
    """Multiply in float32, because cuDNN's default rounds factors to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def support(seed: int, n_way: int = 3, n_shot: int = 4) -> Support:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way).repeat_interleave(n_shot)
    noise = torch.rand(n_way * n_shot, 1, 16, 16, generator=generator)
    return Support(noise + 0.3 * labels[:, None, None, None], labels, n_way)


def adapted(spec: NetConfig, recipe: InnerLoopConfig, device: torch.device) -> InnerLoopResult:
    net, supports = build(spec, seed=3).to(device), [support(1), support(2, 4, 2), support(3, 2, 5)]
    start = dict(build(spec, seed=3).start())
    if recipe.head == "linear":
        generator = torch.Generator().manual_seed(0)
        start["head.weight"] = 0.1 * torch.randn(4, net.feature_count, generator=generator)
        start["head.bias"] = torch.zeros(4)
    starts = weight_ops.expand({name: each.to(device) for name, each in start.items()}, len(supports))
    return run_inner_loop(net, starts, [each.to(device) for each in supports], recipe, [5, 6, 7])


def length(difference: Weights) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in difference.values()))


def share_of_the_change(start: Weights, expected: Weights, found: Weights) -> float:
    """Length of the difference of two results, divided by that of the change from the start to the expected one."""
    assert expected.keys() == found.keys()
    begun = {name: start[name].cpu() if name in start else torch.zeros_like(expected[name].cpu()) for name in expected}
    difference = {name: found[name].cpu() - expected[name].cpu() for name in expected}
    return length(difference) / length({name: expected[name].cpu() - begun[name] for name in expected})


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_inner_loops_agree_with_the_cpu(kind: str, recipe: InnerLoopConfig) -> None:
    on_cpu, on_gpu = (adapted(NETS[kind], recipe, device) for device in (CPU, GPU))
    assert {tensor.device.type for tensor in on_gpu.weights.values()} == {"cuda"}
    torch.testing.assert_close(on_gpu.losses.cpu(), on_cpu.losses, rtol=0.02, atol=0.02)
    start = weight_ops.expand(dict(build(NETS[kind], seed=3).start()), 3)
    assert share_of_the_change(start, on_cpu.weights, on_gpu.weights) < DIFFERENCE


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_first_step_in_half_precision_has_about_the_same_loss(precision: Precision) -> None:
    full, half = (adapted(NETS["conv4"], replace(SGD, precision=chosen), GPU) for chosen in ("float32", precision))
    torch.testing.assert_close(half.losses[:, 0], full.losses[:, 0], rtol=0.1, atol=0.05)
    assert half.losses.isfinite().all()


def test_many_tasks_in_one_batch_get_what_each_gets_alone() -> None:
    net = build(NETS["conv4"], seed=3).to(GPU)
    start = {name: tensor.to(GPU) for name, tensor in net.start().items()}
    loops = [InnerLoopInput(support(seed, 2 + seed % 3, 3).to(GPU), SGD, seed) for seed in range(64)]
    together = adapt_inputs(net, start, loops)
    for loop, one in list(zip(loops, together, strict=True))[::9]:
        alone = adapt_one(net, start, loop.support, SGD, loop.seed)
        assert isinstance(one, Adapted)
        assert share_of_the_change(start, alone.weights, one.weights) < DIFFERENCE


def dataset() -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    arrays = [
        (torch.randint(0, 160, (12, 1, 16, 16), generator=generator) + 15 * index).to(torch.uint8) for index in range(6)
    ]
    return ArrayDataset("noise", [f"class {index}" for index in range(6)], arrays)


@pytest.mark.parametrize("algorithm", ["reptile", "bayesian-reptile", "fomaml", "maml"])
def test_a_training_agrees_with_the_cpu_and_resumes(tmp_path: Path, algorithm: str) -> None:
    starts = {}
    recipe = replace(SGD, steps=2)
    meta = MetaTrainingConfig(meta_steps=4, meta_batch=2, n_way=3, train_shots=4, algorithm=algorithm)  # type: ignore[arg-type]
    plan = TrainingRunConfig(NETS["conv4"], recipe, meta, {"sets": "noise"})
    for device in (CPU, GPU):
        path = tmp_path / f"{device.type}.safetensors"
        for progress in TrainingRun(plan, recipe, path, device).run([WeightedDataset(dataset())], save_every_s=0):
            if progress.meta_step == 2:
                break  # as if it had been killed
        list(TrainingRun(plan, recipe, path, device).run([WeightedDataset(dataset())]))
        starts[device.type] = load_checkpoint(path).weights
    drawn = TrainingRun(plan, recipe, tmp_path / "drawn.safetensors", CPU).state.start
    assert share_of_the_change(drawn, starts["cpu"], starts["cuda"]) < DIFFERENCE


def test_episodes_are_scored_the_same() -> None:
    checkpoint = load_checkpoint("omniglot")
    image = checkpoint.net_config.image
    generator = torch.Generator().manual_seed(4)
    pictures = [torch.randint(0, 256, (8, 1, 28, 28), generator=generator, dtype=torch.uint8) // 2 for _ in range(6)]
    for index, each in enumerate(pictures):
        each[:, :, 4 * index : 4 * index + 4] += 100
    source = EpisodeSampler(ArrayDataset("bars", list("abcdef"), pictures), EpisodeShape(5, 2, 3), image)
    on_cpu, on_gpu = (
        list(
            evaluate(
                checkpoint.build_net().to(device), checkpoint.on(device).weights, source, checkpoint.recipe,
                EvaluationConfig(4),
            )
        )
        for device in (CPU, GPU)
    )  # fmt: skip
    assert on_cpu == pytest.approx(on_gpu, abs=0.07)
