"""Gaussian weights: their divergence, their samples, and inner loops that move means and spreads."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from models import weights as weight_ops
from models.adaptation.gaussian_weights import SUFFIX, GaussianStep, divergence, draw_noise, means, spread_weights
from models.adaptation.inner_loop import InnerLoopResult, run_inner_loop
from models.config import InnerLoopConfig
from models.nets import Net
from models.task import Support
from tests.unit.models.conftest import MakeSupport

RECIPE = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=6)
SCALES = ("*.scale", "*.shift")


def gaussian(mean: float, deviation: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((1, 4), mean), "w" + SUFFIX: torch.full((1, 4), deviation).log()}


def adapt_from(net: Net, start: dict[str, torch.Tensor], supports: list[Support], seeds: list[int]) -> InnerLoopResult:
    return run_inner_loop(net, weight_ops.expand(start, len(supports)), supports, RECIPE, seeds)


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    found = divergence(gaussian(0.3, 0.2), gaussian(-0.1, 0.5))
    expected = 4 * kl_divergence(Normal(0.3, 0.2), Normal(-0.1, 0.5))
    torch.testing.assert_close(found, expected[None])


@pytest.mark.parametrize("deviation", [1.0, 0.01])
def test_a_step_on_the_penalty_ends_where_an_implicit_step_ends_and_never_beyond_the_prior(deviation: float) -> None:
    prior, rate, rows = gaussian(0.0, deviation), 0.3, torch.tensor([5])
    posterior = {**gaussian(1.0, deviation)}
    mean = posterior["w"].requires_grad_()
    step = GaussianStep(prior, rows, {}, rate)
    (gradient,) = torch.autograd.grad(step.penalty(posterior).sum(), mean)
    moved = mean.detach() - rate * gradient
    torch.testing.assert_close(moved, torch.full((1, 4), 1 / (1 + rate / 5 / deviation**2)))


def test_samples_have_the_mean_and_the_standard_deviation_of_the_weights() -> None:
    weights = {"w": torch.full((1, 20_000), 2.0), "w" + SUFFIX: torch.full((1, 20_000), 0.5).log()}
    noise = draw_noise(weights, [torch.Generator().manual_seed(0)])
    drawn = GaussianStep(weights, torch.ones(1), noise, 0.1).sample(weights)["w"]
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


def test_an_inner_loop_moves_means_and_spreads_and_repeats_bit_for_bit(net: Net, make_support: MakeSupport) -> None:
    start = spread_weights(net.start(), SCALES)
    first, again = (adapt_from(net, start, [make_support(1)], [3]) for _ in range(2))
    other = adapt_from(net, start, [make_support(1)], [4])
    names = [name for name in start if name.endswith(SUFFIX)]
    assert names
    assert all(not torch.equal(first.weights[name][0], start[name]) for name in names)
    assert weight_ops.digest(first.weights) == weight_ops.digest(again.weights) != weight_ops.digest(other.weights)


def test_a_task_draws_the_same_samples_alone_and_among_others(conv4: Net, make_support: MakeSupport) -> None:
    start = spread_weights(conv4.start(), SCALES)
    together = adapt_from(conv4, start, [make_support(seed) for seed in range(3)], [5, 6, 7])
    alone = adapt_from(conv4, start, [make_support(1)], [6])
    for name in start:
        torch.testing.assert_close(together.weights[name][1], alone.weights[name][0], rtol=1e-3, atol=1e-4)


def test_without_spreads_the_start_is_the_point_estimate_again(conv4: Net, make_support: MakeSupport) -> None:
    start = means(spread_weights(conv4.start(), SCALES))
    assert weight_ops.digest(start) == weight_ops.digest(conv4.start())
    weight_digests = {
        weight_ops.digest(adapt_from(conv4, dict(own), [make_support(1)], [3]).weights)
        for own in (start, conv4.start())
    }
    assert len(weight_digests) == 1
