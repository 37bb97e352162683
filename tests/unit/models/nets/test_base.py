"""Nets called with given weights: kernels per task or shared, any normalisation, from several threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from models.nets import Net, build, call_net, call_net_recording
from models.nets.normalisation import fold
from tests.unit.models.conftest import RESNET_SPEC, SPEC, SURFACE_SPEC

TASKS, BATCH = 3, 5


@pytest.fixture(params=[SPEC, SURFACE_SPEC, RESNET_SPEC], ids=["conv4", "surface", "resnet12"])
def net(request: pytest.FixtureRequest) -> Net:
    return build(request.param, seed=3)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images() -> Tensor:
    return draw(1, TASKS, BATCH, 1, 16, 16)


@pytest.fixture
def shared(net: Net) -> dict[str, Tensor]:
    """Return weights with shared kernels, and a scale and a shift per task."""
    weights = net.start()
    for index, (name, tensor) in enumerate(weights.items()):
        if tensor.ndim == 1:
            weights[name] = tensor + 0.2 * (draw(index, TASKS, len(tensor)) - 0.5)
    return weights


@pytest.fixture
def per_task(shared: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same weights with a copy of the kernels per task."""
    return {name: tensor.expand(TASKS, *tensor.shape) if tensor.ndim > 2 else tensor for name, tensor in shared.items()}


def test_shared_kernels_give_the_features_and_statistics_of_equal_kernels_per_task(
    net: Net, images: Tensor, shared: dict[str, Tensor], per_task: dict[str, Tensor]
) -> None:
    features, statistics = call_net_recording(net, shared, images)
    expected, expected_statistics = call_net_recording(net, per_task, images)
    assert features.shape == (TASKS, BATCH, net.feature_count)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(statistics, expected_statistics, rtol=1e-4, atol=1e-4)


def test_standardised_features_have_mean_0_and_biased_variance_1(images: Tensor) -> None:
    net = build(SURFACE_SPEC, seed=3)
    features = call_net(net, net.start(), images)
    torch.testing.assert_close(features.mean(1), torch.zeros(TASKS, net.feature_count), rtol=0, atol=1e-3)
    assert float(features.var(1, correction=0).max()) == pytest.approx(1, abs=1e-3)  # less where features hardly vary


def test_fixed_statistics_apply_per_task_with_shared_kernels(
    net: Net, images: Tensor, shared: dict[str, Tensor], per_task: dict[str, Tensor]
) -> None:
    _, statistics = call_net_recording(net, per_task, images)
    others = draw(2, TASKS, BATCH, 1, 16, 16)
    expected = call_net(net, per_task, others, statistics)
    torch.testing.assert_close(call_net(net, shared, others, statistics), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(call_net(net, fold(per_task, statistics), others), expected, rtol=1e-4, atol=1e-4)


def test_weights_without_a_task_dimension_serve_every_task(net: Net, images: Tensor) -> None:
    start = net.start()
    stacked = {name: tensor.expand(TASKS, *tensor.shape) for name, tensor in start.items()}
    torch.testing.assert_close(call_net(net, start, images), call_net(net, stacked, images), rtol=1e-4, atol=1e-4)


def test_some_layers_can_share_their_kernels_while_others_do_not(
    net: Net, images: Tensor, per_task: dict[str, Tensor]
) -> None:
    first = [name for name, tensor in per_task.items() if name.startswith("block1") and tensor.ndim == 5]
    mixed = {**per_task, **{name: per_task[name][0] for name in first}}
    torch.testing.assert_close(call_net(net, mixed, images), call_net(net, per_task, images))


def test_an_ordinary_call_gives_the_features_of_one_task(net: Net, images: Tensor) -> None:
    with torch.no_grad():
        features = net(images[0])
    stacked = {name: tensor[None] for name, tensor in net.start().items()}
    torch.testing.assert_close(features, call_net(net, stacked, images[:1])[0], rtol=1e-4, atol=1e-4)


def test_an_ordinary_call_with_folded_weights_needs_no_statistics(net: Net, images: Tensor) -> None:
    _, statistics = call_net_recording(net, net.start(), images[:1])
    folded = fold(net.start(), {name: tensor[0] for name, tensor in statistics.items()})
    expected = call_net(net, net.start(), images[:1], statistics)[0]
    torch.testing.assert_close(torch.func.functional_call(net, folded, images[0]), expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_the_same_with_shared_kernels(
    net: Net, images: Tensor, shared: dict[str, Tensor], per_task: dict[str, Tensor]
) -> None:
    def gradients(weights: dict[str, Tensor], names: Sequence[str], *, recompute: bool) -> list[Tensor]:
        leaves = {name: weights[name].detach().clone().requires_grad_() for name in names}
        features = call_net(net, {**weights, **leaves}, images, recompute=recompute)
        call_net(net, {name: tensor[0] for name, tensor in per_task.items()}, images[:1])  # before the backward pass
        return list(torch.autograd.grad(features.square().sum(), list(leaves.values())))

    names = [name for name, tensor in shared.items() if tensor.ndim == 2]
    for recompute in (False, True):
        found = gradients(shared, names, recompute=recompute)
        torch.testing.assert_close(found, gradients(per_task, names, recompute=False), rtol=1e-2, atol=1e-3)


def test_threads_call_one_net_with_different_weights_at_the_same_time(net: Net, images: Tensor) -> None:
    versions = [{name: tensor * (1 + number / 10) for name, tensor in net.start().items()} for number in range(6)]

    def statistics(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return call_net_recording(net, weights, images)[1]

    expected = [statistics(weights) for weights in versions]
    with ThreadPoolExecutor(3) as pool:
        for found, alone in zip(pool.map(statistics, 5 * versions), 5 * expected, strict=True):
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


def test_a_call_does_not_change_the_parameters_of_the_net(
    net: Net, images: Tensor, per_task: dict[str, Tensor]
) -> None:
    before = {name: tensor.clone() for name, tensor in net.start().items()}
    call_net_recording(net, per_task, images)
    torch.testing.assert_close(net.start(), before, rtol=0, atol=0)
    assert dict(net.named_buffers()) == {}


class Perceptron(nn.Module):
    """A user-defined module. Its inputs are vectors instead of images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.layers(inputs)
        return features


def test_any_module_serves_tasks_that_share_its_weights() -> None:
    module, inputs = Perceptron(), draw(1, TASKS, BATCH, 4)
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    features = call_net(module, weights, inputs, memory_format=torch.contiguous_format)
    torch.testing.assert_close(features, module(inputs).detach())
