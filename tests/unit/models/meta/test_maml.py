"""Gradients of MAML and FOMAML compared with values calculated by hand, finite differences, and each other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from models import weights as weight_ops
from models.adaptation.inner_loop import run_inner_loop
from models.config import InnerLoopConfig
from models.meta.maml import Maml, query_losses, split_support_query
from models.meta.outer_loop import MetaTrainingState
from models.meta.reptile import Reptile
from models.nets import Net, build, heads
from models.task import Support
from tests.unit.models.conftest import SPEC, MakeSupport

MAML, FOMAML = Maml(second_order=True), Maml(second_order=False)


class DoubleSupport(Support):
    """A support in float64, to separate rounding from errors; `Support` itself requires float32."""

    def __post_init__(self) -> None:
        """Skip the checks of `Support`."""


def in_double(support: Support) -> Support:
    return DoubleSupport(support.inputs.double(), support.labels, support.n_way)


def double_start(net: Net, head: str = "prototype") -> dict[str, Tensor]:
    linear = heads.linear_head(net.feature_count, 3, torch.Generator().manual_seed(1)) if head == "linear" else {}
    return {name: tensor.double() for name, tensor in {**net.start(), **linear}.items()}


SGD = InnerLoopConfig(steps=2, learning_rate=0.05, batch_size=6)
CPU = torch.device("cpu")


class OneNumberNet(Net):
    """Its only feature is the mean of the image times its only weight."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SPEC
        self.feature_count = 1
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.weight.flatten()


def four_images(inner: tuple[float, float], query: tuple[float, float]) -> Support:
    """One support image and one query for each of the classes 0 and 1."""
    numbers = torch.tensor([inner[0], query[0], inner[1], query[1]])
    return Support(numbers[:, None, None, None].expand(4, 1, 16, 16).clone(), torch.tensor([0, 0, 1, 1]), 2)


def one_number_start(weight: float) -> dict[str, Tensor]:
    """Weights with a score of 0 for class 0 and of the feature for class 1."""
    return {
        "weight": torch.tensor([[weight]]),
        heads.WEIGHT: torch.tensor([[0.0], [1.0]]),
        heads.BIAS: torch.zeros(2),
    }


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


ONE_STEP = InnerLoopConfig(steps=1, learning_rate=0.5, batch_size=2, head="linear", lr_multipliers=(("head.*", 0.0),))


@pytest.mark.parametrize("second_order", [True, False])
def test_the_gradient_matches_the_one_calculated_by_hand(second_order: bool) -> None:
    # With w the weight and u, v the means of the images of class 0 and 1 the loss is
    # L(w) = (softplus(u w) + softplus(-v w)) / 2, so L' = (u s(u w) - v s(-v w)) / 2 with s the sigmoid, and
    # L'' = (u^2 s(u w) s(-u w) + v^2 s(v w) s(-v w)) / 2. After one step w1 = w - rate * L'(w), so that by the chain
    # rule the gradient of the query loss is Lq'(w1) * (1 - rate * L''(w)); FOMAML omits the factor in parentheses.
    w, (u, v), (a, b) = 0.3, (-0.5, 1.5), (-1.0, 0.4)
    slope = (u * sigmoid(u * w) - v * sigmoid(-v * w)) / 2
    bend = (u * u * sigmoid(u * w) * sigmoid(-u * w) + v * v * sigmoid(v * w) * sigmoid(-v * w)) / 2
    w1 = w - 0.5 * slope
    expected = (a * sigmoid(a * w1) - b * sigmoid(-b * w1)) / 2
    if second_order:
        expected *= 1 - 0.5 * bend
    maml = Maml(second_order)
    state = MetaTrainingState(one_number_start(w))
    gradient, losses, adapted = maml.outer_gradient(OneNumberNet(), state, [four_images((u, v), (a, b))], ONE_STEP, [0])
    assert float(adapted.weights["weight"].detach()) == pytest.approx(w1, abs=1e-6)
    assert float(gradient["weight"]) == pytest.approx(expected, abs=1e-6)
    assert float(losses) == pytest.approx((math.log1p(math.exp(a * w1)) + math.log1p(math.exp(-b * w1))) / 2, abs=1e-6)


@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_the_second_order_gradient_matches_finite_differences(
    net: Net, head: Literal["linear", "prototype"], make_support: MakeSupport
) -> None:
    recipe, start = replace(SGD, learning_rate=0.01, head=head), double_start(net, head)
    supports = [in_double(make_support(seed)) for seed in (1, 2)]

    def loss(along: dict[str, Tensor], distance: float) -> float:
        moved = MetaTrainingState(weight_ops.add_scaled(start, along, distance))
        return float(MAML.outer_gradient(net, moved, supports, recipe, [4, 5])[1].mean())

    gradient, _, _ = MAML.outer_gradient(net, MetaTrainingState(start), supports, recipe, [4, 5])
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        along = {
            name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for name, tensor in start.items()
        }
        expected = (loss(along, 1e-8) - loss(along, -1e-8)) / 2e-8
        found = sum(float((gradient[name] * along[name]).sum()) for name in start)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_maml_and_fomaml_agree_without_inner_steps(net: Net, make_support: MakeSupport) -> None:
    recipe = replace(SGD, steps=0)
    supports = [make_support(1), make_support(2)]
    second, first = (
        algorithm.outer_gradient(net, MetaTrainingState(net.start()), supports, recipe, [4, 5])[0]
        for algorithm in (MAML, FOMAML)
    )
    for name, gradient in first.items():  # different memory layouts round differently
        torch.testing.assert_close(second[name], gradient, rtol=1e-3, atol=1e-5)
    assert any(bool(gradient.abs().sum() > 0) for gradient in first.values())


@pytest.mark.parametrize("steps", [1, 3])
def test_maml_and_fomaml_differ_with_inner_steps(net: Net, make_support: MakeSupport, steps: int) -> None:
    recipe = replace(SGD, steps=steps)
    second, first = (
        algorithm.outer_gradient(net, MetaTrainingState(net.start()), [make_support(1)], recipe, [4])[0]
        for algorithm in (MAML, FOMAML)
    )
    name = next(name for name in second if name.endswith(".weight"))
    assert not torch.allclose(second[name], first[name], rtol=1e-3)


@pytest.mark.parametrize("algorithm", [MAML, FOMAML], ids=["maml", "fomaml"])
def test_the_inner_steps_are_those_of_run_inner_loop(net: Net, make_support: MakeSupport, algorithm: Maml) -> None:
    support = make_support(1)
    inner, _ = split_support_query(support)
    plain = run_inner_loop(net, weight_ops.expand(net.start(), 1), [inner], SGD, [4])
    _, _, adapted = algorithm.outer_gradient(net, MetaTrainingState(net.start()), [support], SGD, [4])
    for name, tensor in plain.weights.items():
        torch.testing.assert_close(adapted.weights[name].detach(), tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_the_fomaml_gradient_is_the_query_gradient_at_the_adapted_weights(
    conv4: Net, make_support: MakeSupport
) -> None:
    start = {**conv4.start(), **heads.linear_head(conv4.feature_count, 3, torch.Generator().manual_seed(1))}
    recipe = replace(SGD, head="linear")
    support = make_support(1)
    inner, query = split_support_query(support)
    adapted = run_inner_loop(conv4, weight_ops.expand(start, 1), [inner], recipe, [4])
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapted.weights.items()}
    loss = query_losses(conv4, replace(adapted, weights=leaves), [query]).sum()
    expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    found, _, _ = FOMAML.outer_gradient(conv4, MetaTrainingState(start), [support], recipe, [4])
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name][0], msg=name)


def test_one_reptile_step_on_the_queries_equals_fomaml_without_inner_steps(make_support: MakeSupport) -> None:
    # Nichol et al. 2018, section 5: with one inner step Reptile's update is the plain gradient of the expected loss,
    # and so is FOMAML's without inner steps.
    net = build(SPEC, seed=3)
    start = {**net.start(), **heads.linear_head(net.feature_count, 3, torch.Generator().manual_seed(1))}
    support = make_support(1)
    _, query = split_support_query(support)
    recipe = InnerLoopConfig(steps=1, learning_rate=0.1, batch_size=len(query), head="linear")
    moved = Reptile().meta_step(net, MetaTrainingState(start), [query], recipe, 1.0, [0])
    gradient, _, _ = FOMAML.outer_gradient(net, MetaTrainingState(start), [support], replace(recipe, steps=0), [0])
    for name, tensor in weight_ops.subtract(start, moved.start).items():
        torch.testing.assert_close(tensor, 0.1 * gradient[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("algorithm", [MAML, FOMAML], ids=["maml", "fomaml"])
def test_the_gradient_of_unequal_tasks_is_the_mean_of_their_gradients(
    conv4: Net, make_support: MakeSupport, algorithm: Maml
) -> None:
    shapes = [(1, 3, 4), (2, 2, 6), (3, 5, 2)]
    supports = [in_double(make_support(seed, n_way=ways, n_shot=shots)) for seed, ways, shots in shapes]
    state = MetaTrainingState(double_start(conv4))
    batch = algorithm.outer_gradient(conv4, state, supports, SGD, [4, 5, 6])[0]
    single = [
        algorithm.outer_gradient(conv4, state, [support], SGD, [seed])[0]
        for support, seed in zip(supports, (4, 5, 6), strict=True)
    ]
    torch.testing.assert_close(batch, weight_ops.mean(single), rtol=1e-8, atol=1e-10)
