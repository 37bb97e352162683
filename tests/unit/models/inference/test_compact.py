"""Packed weights: how small, how close, and the same whenever they are brought back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.adaptation.adapt import adapt_one
from models.config import InnerLoopConfig
from models.inference import compact
from models.inference.compact import Compactor
from models.inference.predict import class_probabilities
from models.nets import Net
from models.nets.normalisation import fold
from tests.unit.models.conftest import MakeSupport

RECIPE = InnerLoopConfig(steps=4, learning_rate=0.05, batch_size=6)


def folded_version(net: Net, make_support: MakeSupport, seed: int = 1) -> dict[str, Tensor]:
    adapted = adapt_one(net, net.start(), make_support(seed), RECIPE, seed=0)
    return fold(adapted.weights, adapted.statistics)


def inner_kernel(net: Net) -> str:
    """The name of the net's second convolution."""
    return [name for name, tensor in net.start().items() if tensor.dim() == 4][1]


def test_expanded_weights_predict_nearly_the_same(net: Net, make_support: MakeSupport) -> None:
    folded, images = folded_version(net, make_support), make_support(2).images
    packer = Compactor(net.start())
    expanded = packer.expanded(packer.compact(folded))
    assert {name: tensor.shape for name, tensor in expanded.items()} == {
        name: tensor.shape for name, tensor in folded.items()
    }
    torch.testing.assert_close(
        class_probabilities(net, expanded, images), class_probabilities(net, folded, images), atol=5e-3, rtol=0
    )


def test_the_same_version_comes_back_in_the_same_bits(net: Net, make_support: MakeSupport) -> None:
    folded = folded_version(net, make_support)
    first, second = Compactor(net.start()), Compactor(net.start())
    one, other = first.expanded(first.compact(folded)), second.expanded(second.compact(folded))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_convolutions_near_the_start_take_under_a_quarter(net: Net) -> None:
    draws = torch.Generator().manual_seed(0)
    conv = {
        name: tensor * (1 + 0.05 * torch.randn(tensor.shape, generator=draws))
        for name, tensor in net.start().items()
        if tensor.dim() == 4
    }
    rows = sum(len(tensor) for tensor in conv.values())
    held = Compactor(net.start()).compact(conv).size_bytes
    assert held <= sum(tensor.numel() for tensor in conv.values()) * 7 / 8 + 8 * rows + 7 * len(conv)


def test_weights_that_only_folding_has_changed_take_nothing_but_their_gain(net: Net) -> None:
    start = net.start()
    name = inner_kernel(net)
    folded = {name: start[name] * torch.linspace(0.5, 2, len(start[name]))[:, None, None, None]}
    packer = Compactor(start)
    held = packer.compact(folded)
    torch.testing.assert_close(packer.expanded(held)[name], folded[name], atol=1e-4, rtol=1e-2)


def test_weights_far_from_the_start_are_kept_in_half_their_memory(net: Net) -> None:
    draws = torch.Generator().manual_seed(0)
    name = inner_kernel(net)
    far = {name: torch.randn(net.start()[name].shape, generator=draws)}
    packer = Compactor(net.start())
    held = packer.compact(far)
    assert held.size_bytes == 2 * far[name].numel()
    torch.testing.assert_close(packer.expanded(held)[name], far[name], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_seven_bits_come_back(count: int) -> None:
    steps = np.random.default_rng(count).integers(-63, 64, count).astype(np.float32)
    packed = compact._pack(steps)
    assert packed.nbytes == 7 * -(-count // 8)
    np.testing.assert_array_equal(compact._unpacked(packed, count), steps)
