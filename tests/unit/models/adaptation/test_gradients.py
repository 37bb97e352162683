"""Recomputed stages and half precision: which results stay bit-identical, and which stay close."""

from __future__ import annotations

import json
import math
import weakref
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation import inner_loop
from models.adaptation.adapt import adapt_one
from models.adaptation.gradients import INITIAL_LOSS_SCALE, GradientComputation, require_precision
from models.adaptation.inner_loop import InnerLoopOptions, run_inner_loop
from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.meta.maml import Maml
from models.meta.outer_loop import MetaTrainingState
from models.nets import Net, build, call_net, call_net_recording, heads
from models.nets.normalisation import ConvNorm
from models.task import Support
from tests.unit.models.conftest import SPEC, MakeSupport

SGD = InnerLoopConfig(steps=4, learning_rate=0.005, batch_size=6)
BF16 = replace(SGD, precision="bfloat16")
CPU = torch.device("cpu")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[ConvNorm]:
    """Count how often each layer runs."""
    counted: Counter[ConvNorm] = Counter()
    forward = ConvNorm.forward

    def counting(layer: ConvNorm, images: Tensor) -> Tensor:
        counted[layer] += 1
        return forward(layer, images)

    monkeypatch.setattr(ConvNorm, "forward", counting)
    return counted


@pytest.mark.parametrize(
    "recipe", [SGD, replace(SGD, optimiser="adam"), replace(SGD, lr_multipliers=(("block[12]*", 0.0),))]
)
def test_recomputed_stages_give_the_same_bits(net: Net, make_support: MakeSupport, recipe: InnerLoopConfig) -> None:
    kept, again = (
        adapt_one(net, net.start(), make_support(1), replace(recipe, recompute=recompute), seed=4)
        for recompute in (False, True)
    )
    assert kept.losses == again.losses
    assert weight_ops.digest(kept.weights) == weight_ops.digest(again.weights)
    assert weight_ops.digest(kept.statistics) == weight_ops.digest(again.statistics)


def trainable(net: Net) -> dict[str, Tensor]:
    return {name: tensor.clone()[None].requires_grad_() for name, tensor in net.start().items()}


@pytest.mark.parametrize(("recompute", "times"), [(False, 1), (True, 2)])
def test_recomputed_stages_run_again_in_the_backward_pass(
    net: Net, make_support: MakeSupport, runs: Counter[ConvNorm], recompute: bool, times: int
) -> None:
    weights = trainable(net)
    features = call_net(net, weights, make_support(1).inputs[None], recompute=recompute)
    torch.autograd.grad(features.square().sum(), list(weights.values()))
    assert set(runs.values()) == {times}


def test_recording_runs_every_stage_once(net: Net, make_support: MakeSupport, runs: Counter[ConvNorm]) -> None:
    weights, images = trainable(net), make_support(1).inputs[None]
    call_net(net, weights, images, recompute=True)
    runs.clear()
    features, statistics = call_net_recording(net, weights, images)
    torch.autograd.grad(features.square().sum(), list(weights.values()))
    assert set(runs.values()) == {1}
    assert len(statistics) >= 2 * len(runs)


@pytest.mark.parametrize("second_order", [True, False], ids=["maml", "fomaml"])
def test_the_gradient_of_maml_is_the_same_with_recomputed_stages(
    net: Net, make_support: MakeSupport, second_order: bool
) -> None:
    kept, again = (
        Maml(second_order).outer_gradient(
            net,
            MetaTrainingState(net.start()),
            [make_support(1), make_support(2)],
            replace(SGD, recompute=recompute),
            [4, 5],
        )[0]
        for recompute in (False, True)
    )
    assert any(bool(gradient.abs().sum() > 0) for gradient in kept.values())
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def update_error(start: weight_ops.Weights, exact: weight_ops.Weights, other: weight_ops.Weights) -> float:
    """Return the distance from `other` to `exact`, divided by the distance from `start` to `exact`."""

    def distance(base: weight_ops.Weights) -> float:
        return math.sqrt(math.fsum(float((exact[name] - base[name]).square().sum()) for name in start))

    return distance(other) / distance(start)


def noisy_support(image: ImageConfig) -> Support:
    """Return five noisy images of each of five classes, prepared for a net."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(5)
    classes = torch.randn(5, image.channels, image.side, image.side, generator=generator)
    noise = torch.randn(25, image.channels, image.side, image.side, generator=generator)
    return Support(classes[labels] + noise, labels, 5)


@pytest.mark.parametrize("name", ["omniglot", "surfaces"])
def test_half_precision_is_accurate_and_all_results_are_float32(name: str) -> None:
    checkpoint = load_checkpoint(name)  # an untrained net amplifies rounding errors more than a trained one
    support, recipe = noisy_support(checkpoint.net_config.image), replace(checkpoint.recipe, steps=5)
    exact, half = (
        adapt_one(checkpoint.build_net(), checkpoint.weights, support, chosen, seed=4)
        for chosen in (recipe, replace(recipe, precision="bfloat16"))
    )
    assert {tensor.dtype for tensor in (*half.weights.values(), *half.statistics.values())} == {torch.float32}
    assert 0 < update_error(checkpoint.weights, exact.weights, half.weights) < 0.1
    assert half.losses == pytest.approx(exact.losses, rel=0.1)
    assert half.support_accuracy == exact.support_accuracy


def test_half_precision_with_recomputed_stages_gives_the_same_bits(net: Net, make_support: MakeSupport) -> None:
    kept, again = (
        adapt_one(net, net.start(), make_support(1), replace(BF16, recompute=recompute), seed=4)
        for recompute in (False, True)
    )
    assert weight_ops.digest(kept.weights) == weight_ops.digest(again.weights)


def test_moments_of_adam_stay_float32_in_half_precision(net: Net, make_support: MakeSupport) -> None:
    recipe = replace(BF16, optimiser="adam", learning_rate=0.001)
    result = run_inner_loop(net, weight_ops.expand(net.start(), 1), [make_support(1)], recipe, [0])
    assert result.moments is not None
    assert {tensor.dtype for tensor in result.moments.second.values()} == {torch.float32}
    assert result.losses.dtype == torch.float32


def test_float16_without_cuda_is_rejected(conv4: Net, make_support: MakeSupport) -> None:
    float16 = replace(SGD, precision="float16")
    with pytest.raises(InvalidConfig, match=r"precision is float16 and the device cpu.*float32, bfloat16"):
        adapt_one(conv4, conv4.start(), make_support(1), float16, seed=0)
    require_precision(float16, torch.device("cuda"))


def test_second_order_in_half_precision_is_rejected(conv4: Net, make_support: MakeSupport) -> None:
    with pytest.raises(InvalidConfig, match="second-order MAML came with precision bfloat16"):
        Maml(second_order=True).meta_step(conv4, MetaTrainingState(conv4.start()), [make_support(1)], BF16, 1.0, [0])
    Maml(second_order=False).meta_step(conv4, MetaTrainingState(conv4.start()), [make_support(1)], BF16, 1.0, [0])
    require_precision(BF16, CPU)  # first derivatives alone, unless said otherwise


def overflowing(gradient: Tensor) -> Tensor:
    """Overflow as in a number format of small range."""
    return torch.where(gradient.abs() > 1000, torch.inf, gradient)


class ScaledOnCpu(GradientComputation):
    """Scales losses on the CPU as on CUDA."""

    def __init__(self, tasks: int) -> None:
        super().__init__(SGD, tasks, CPU)
        self._scale = torch.full((tasks,), INITIAL_LOSS_SCALE)


def test_overflowing_gradients_are_computed_again_at_a_smaller_scale() -> None:
    computation = ScaledOnCpu(3)
    leaf = torch.tensor([[1e-3, 2.0], [3.0, 1e-6], [1e9, 1.0]]).requires_grad_()
    runs = []

    def losses_of() -> Tensor:
        runs.append(1)
        short = leaf.clone()
        short.register_hook(overflowing)  # type: ignore[no-untyped-call]
        return (short**2).sum(1) / 2

    losses, (gradient,) = computation.gradients(losses_of, [leaf], create_graph=False)
    torch.testing.assert_close(losses, (leaf.detach() ** 2).sum(1) / 2)
    assert torch.equal(gradient[:2], leaf.detach()[:2])  # scales are powers of two
    assert bool(gradient[2].isinf().any())  # an overflow at scale 1 is returned
    first, runs[:] = len(runs), []
    computation.gradients(losses_of, [leaf], create_graph=False)
    assert first > 1
    assert len(runs) == 1  # the scales are kept for the next call


@pytest.mark.parametrize("first_scale", [INITIAL_LOSS_SCALE, 2.0**40], ids=["as on CUDA", "far too large"])
def test_float16_with_scaled_losses_is_accurate(first_scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Float16OnCpu(GradientComputation):
        """Computes in float16 on the CPU, as CUDA does."""

        def __init__(self, recipe: InnerLoopConfig, tasks: int, device: torch.device, *, second_order: bool) -> None:
            super().__init__(recipe, tasks, device, second_order=second_order)
            self._half, self._scale = torch.float16, torch.full((tasks,), first_scale)

    checkpoint = load_checkpoint("omniglot")
    support, net = noisy_support(checkpoint.net_config.image), checkpoint.build_net()
    exact = adapt_one(net, checkpoint.weights, support, checkpoint.recipe, seed=4)
    monkeypatch.setattr(inner_loop, "GradientComputation", Float16OnCpu)
    half = adapt_one(net, checkpoint.weights, support, checkpoint.recipe, seed=4)
    assert 0 < update_error(checkpoint.weights, exact.weights, half.weights) < 0.05
    assert {tensor.dtype for tensor in half.weights.values()} == {torch.float32}


def test_a_loss_that_is_not_finite_is_not_computed_again() -> None:
    leaf = torch.tensor([[float("inf")], [1e-3]]).requires_grad_()
    runs = []

    def losses_of() -> Tensor:
        runs.append(1)
        return (leaf**2).sum(1)

    losses, _ = ScaledOnCpu(2).gradients(losses_of, [leaf], create_graph=False)
    assert len(runs) == 1
    assert losses.isfinite().tolist() == [False, True]


def test_precision_and_recompute_survive_json_and_are_omitted_at_their_defaults() -> None:
    chosen = replace(BF16, recompute=True)
    data = json.loads(json.dumps(chosen.to_json()))
    assert (data["precision"], data["recompute"]) == ("bfloat16", True)
    assert InnerLoopConfig.from_json(data) == chosen
    assert {"precision", "recompute"}.isdisjoint(SGD.to_json())
    assert chosen.adjusted(9, None) == replace(chosen, steps=9)
    for field, value in (("precision", "float64"), ("recompute", "yes")):
        with pytest.raises(InvalidConfig, match=field):
            InnerLoopConfig.from_json({**SGD.to_json(), field: value})


@pytest.mark.parametrize("pooling", ["stride", "max"])
def test_recomputing_is_exact_with_a_linear_head_and_pooling(pooling: str, make_support: MakeSupport) -> None:
    net = build(NetConfig.from_json({**SPEC.to_json(), "pooling": pooling}), seed=3)
    start = {**net.start(), **heads.linear_head(net.feature_count, 3, torch.Generator().manual_seed(1))}
    recipe = replace(SGD, head="linear")
    kept, again = (
        run_inner_loop(
            net, weight_ops.expand(start, 2), [make_support(1), make_support(2)], variant, [4, 5], InnerLoopOptions()
        )
        for variant in (recipe, replace(recipe, recompute=True))
    )
    assert weight_ops.digest(kept.weights) == weight_ops.digest(again.weights)


def test_the_gradients_of_a_step_are_freed_before_the_next_step(
    conv4: Net, make_support: MakeSupport, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    computation = inner_loop._gradients

    def watched(*arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        assert [held for held in alive if held() is not None] == []
        losses, gradients = computation(*arguments)
        alive[:] = [weakref.ref(gradient) for gradient in gradients.values()]
        return losses, gradients

    monkeypatch.setattr(inner_loop, "_gradients", watched)
    run_inner_loop(conv4, weight_ops.expand(conv4.start(), 1), [make_support(1)], SGD, [0])
    assert alive
