"""MAML's gradients compared with torch.func, with float64, and with the analysis in Reptile's paper."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from models import weights as weight_ops
from models.adaptation.inner_loop import batch_plan, run_inner_loop
from models.config import InnerLoopConfig
from models.meta.maml import Maml, split_support_query
from models.meta.outer_loop import MetaTrainingState
from models.nets import Net, build, heads
from models.task import Support
from tests.unit.models.conftest import SPEC, MakeSupport

MAML, FOMAML = Maml(second_order=True), Maml(second_order=False)
N_WAY = 3
Gradient = dict[str, Tensor]


class DoubleSupport(Support):
    """A support in float64, to separate rounding from errors; `Support` itself requires float32."""

    def __post_init__(self) -> None:
        """Skip the checks of `Support`."""


def in_double(support: Support) -> Support:
    return DoubleSupport(support.inputs.double(), support.labels, support.n_way)


def single_start() -> Gradient:
    net = build(SPEC, seed=3)
    return {**net.start(), **heads.linear_head(net.feature_count, N_WAY, torch.Generator().manual_seed(1))}


def double_start() -> Gradient:
    return {name: tensor.double() for name, tensor in single_start().items()}


def block(channels_in: int) -> nn.Module:
    convolution = nn.Conv2d(channels_in, SPEC.width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(SPEC.width, track_running_stats=False), nn.ReLU())


def plain_module() -> tuple[nn.Module, dict[str, str]]:
    """The four-block net in plain PyTorch, and a mapping of its parameter names to ours."""
    blocks = [block(SPEC.image.channels), *[block(SPEC.width) for _ in range(3)]]
    module = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(build(SPEC).feature_count, N_WAY)).double()
    parts = {"0.weight": "weight", "1.weight": "scale", "1.bias": "shift"}
    names = {f"{i}.{theirs}": f"block{i + 1}.{ours}" for i in range(4) for theirs, ours in parts.items()}
    return module, {**names, "5.weight": heads.WEIGHT, "5.bias": heads.BIAS}


def gradient_by_torch_func(
    supports: Sequence[Support], start: Gradient, recipe: InnerLoopConfig, second: bool
) -> Gradient:
    """Algorithms 1 and 2 of Finn et al. 2017, task by task, each step on all support images."""
    module, names = plain_module()

    def loss(weights: Gradient, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, weights, (images,)), labels)

    def adapted_loss(weights: Gradient, support: Support) -> Tensor:
        inner, query = split_support_query(support)
        for _ in range(recipe.steps):
            slopes = grad(loss)(weights, inner.inputs, inner.labels)
            used = slopes if second else {name: slope.detach() for name, slope in slopes.items()}
            weights = {name: weights[name] - recipe.learning_rate * used[name] for name in weights}
        return loss(weights, query.inputs, query.labels)

    def outer_loss(weights: Gradient) -> Tensor:
        return torch.stack([adapted_loss(weights, support) for support in supports]).mean()

    found = grad(outer_loss)({theirs: start[ours] for theirs, ours in names.items()})
    return {ours: found[theirs] for theirs, ours in names.items()}


@pytest.mark.parametrize("maml", [MAML, FOMAML], ids=["maml", "fomaml"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_matches_torch_func(conv4: Net, make_support: MakeSupport, maml: Maml, steps: int) -> None:
    supports = [in_double(make_support(seed)) for seed in (1, 2, 3)]
    whole = len(split_support_query(supports[0])[0])
    recipe = InnerLoopConfig(steps=steps, learning_rate=0.05, batch_size=whole, head="linear", statistics="batch")
    found = maml.outer_gradient(conv4, MetaTrainingState(double_start()), supports, recipe, [4, 5, 6])[0]
    expected = gradient_by_torch_func(supports, double_start(), recipe, maml.second_order)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-10)


def drawn_on_white(support: Support) -> Support:
    """Return images that are mostly white, like drawings, so that channel means are large compared to deviations."""
    images = torch.ones_like(support.inputs)
    images[..., 5:11, 5:11] = support.inputs[..., 5:11, 5:11]
    return replace(support, inputs=images)


@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_the_second_order_gradient_is_accurate_in_float32(conv4: Net, make_support: MakeSupport, head: str) -> None:
    # The median over tasks: in a single task, rounding may move the input of a ReLU across 0 on some processors. Its
    # derivative then jumps, and the gradient differs by up to a few per cent without being wrong. With the images'
    # channels last in memory, the median error of the prototype head is 10 %.
    recipe = InnerLoopConfig.from_json({"steps": 3, "learning_rate": 0.05, "batch_size": 30, "head": head})
    errors = []
    for seed in range(1, 8):
        support = drawn_on_white(make_support(seed, n_shot=40))
        rounded = MAML.outer_gradient(conv4, MetaTrainingState(single_start()), [support], recipe, [4])[0]
        exact = MAML.outer_gradient(conv4, MetaTrainingState(double_start()), [in_double(support)], recipe, [4])[0]
        difference = sum(float((rounded[name] - exact[name]).square().sum()) for name in exact) ** 0.5
        errors.append(difference / sum(float(gradient.square().sum()) for gradient in exact.values()) ** 0.5)
    assert statistics.median(errors) < 1e-3


TWO_STEPS = InnerLoopConfig(steps=2, learning_rate=1e-5, batch_size=N_WAY, head="linear", statistics="batch")
EVEN, ODD = {0, 2, 4}, {1, 3, 5}


def reptile_gradient(net: Net, support: Support, first: set[int]) -> Gradient:
    """Return Reptile's update after two steps, the first on the images `first`, divided by the inner learning rate."""
    plans = (batch_plan(support.labels, TWO_STEPS, torch.Generator().manual_seed(seed)) for seed in range(1000))
    seed = next(seed for seed, plan in enumerate(plans) if set(plan[0].tolist()) == first)
    start = double_start()
    end = weight_ops.task_slice(
        run_inner_loop(net, weight_ops.expand(start, 1), [support], TWO_STEPS, [seed]).weights, 0
    )
    return {name: (start[name] - end[name]) / TWO_STEPS.learning_rate for name in start}


def maml_gradient(net: Net, support: Support, first: set[int], maml: Maml, steps: int = 1) -> Gradient:
    """Return the outer gradient with inner steps on the images `first` and all other images as queries."""
    second = (EVEN | ODD) - first
    order = [index for pair in zip(sorted(first), sorted(second), strict=True) for index in pair]
    ordered = DoubleSupport(support.inputs[order], support.labels[order], support.n_way)
    return maml.outer_gradient(net, MetaTrainingState(double_start()), [ordered], replace(TWO_STEPS, steps=steps), [0])[
        0
    ]


def test_the_updates_differ_as_predicted_by_the_reptile_paper(conv4: Net, make_support: MakeSupport) -> None:
    # Nichol et al. 2018, section 5.1, for two batches in either order and to first order in the inner rate a:
    # E[MAML] = G - 2 a I, E[FOMAML] = G - a I, E[Reptile] = 2 G - a I, with G the mean gradient at the start and I
    # the gradient of the inner product of the two batches' gradients.
    support, orders = in_double(make_support(1, n_way=N_WAY, n_shot=2)), (EVEN, ODD)
    plain = weight_ops.mean([maml_gradient(conv4, support, first, FOMAML, steps=0) for first in orders])
    first_order = weight_ops.mean([maml_gradient(conv4, support, first, FOMAML) for first in orders])
    second_order = weight_ops.mean([maml_gradient(conv4, support, first, MAML) for first in orders])
    reptile = weight_ops.mean([reptile_gradient(conv4, support, first) for first in orders])
    for name, gradient in plain.items():
        along = first_order[name] - gradient
        assert float(along.norm()) > 0, name
        torch.testing.assert_close(second_order[name] - gradient, 2 * along, rtol=0.01, atol=0.01 * float(along.norm()))
        torch.testing.assert_close(reptile[name] - 2 * gradient, along, rtol=0.01, atol=0.01 * float(along.norm()))
