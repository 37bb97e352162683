"""Federated rounds: Reptile's meta step over devices, what a client sends, and how private it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from models import weights as weight_ops
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged, CohortTooSmall, InvalidConfig
from models.meta.federated import (
    ClientUpdate,
    Privacy,
    client_updates,
    federated_step,
    gaussian_delta,
    noise_multiplier_for,
    norm,
)
from models.meta.outer_loop import MetaTrainingState
from models.meta.reptile import Reptile
from models.nets import Net, heads
from models.task import Support
from tests.unit.models.conftest import MakeSupport

RECIPE = InnerLoopConfig(steps=2, learning_rate=0.05, batch_size=4)
NO_STEPS = InnerLoopConfig(steps=0, learning_rate=0.05)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + client) for client in range(count)]


def updates_of(net: Net, supports: Sequence[Support], privacy: Privacy, seed: int = 0) -> list[ClientUpdate]:
    return client_updates(net, net.start(), supports, RECIPE, privacy, generators(len(supports), seed))


def flat(update: ClientUpdate) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(update.difference.items())])


def test_a_round_without_clipping_and_noise_is_reptiles_meta_step(conv4: Net, make_support: MakeSupport) -> None:
    supports, start = [make_support(seed) for seed in range(3)], conv4.start()
    seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in generators(3)]
    central = Reptile().meta_step(conv4, MetaTrainingState(start), supports, RECIPE, 0.4, seeds)
    moved = federated_step(start, updates_of(conv4, supports, Privacy()), 0.4)
    torch.testing.assert_close(moved, dict(central.start))


def test_a_client_sends_differences_of_the_starts_weights_and_a_count(conv4: Net, make_support: MakeSupport) -> None:
    (update,) = updates_of(conv4, [make_support(1, n_way=3, n_shot=4)], Privacy())
    start = conv4.start()
    assert set(vars(update)) == {"difference", "samples"}
    assert update.samples == 12
    assert {name: tensor.shape for name, tensor in update.difference.items()} == {
        name: tensor.shape for name, tensor in start.items()
    }
    assert heads.WEIGHT not in update.difference


def test_nothing_of_the_samples_is_in_an_update_without_inner_steps(conv4: Net, make_support: MakeSupport) -> None:
    start = conv4.start()
    sent = [
        client_updates(conv4, start, [make_support(seed)], NO_STEPS, Privacy(), generators(1))[0] for seed in (1, 2)
    ]
    assert torch.equal(flat(sent[0]), flat(sent[1]))
    assert not flat(sent[0]).any()


def test_frozen_weights_do_not_travel_and_the_server_keeps_them(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(
        steps=2, learning_rate=0.05, batch_size=4, lr_multipliers=(("*", 0.0), ("*.scale", 1.0), ("head.*", 0.5))
    )
    start = conv4.start()
    (update,) = client_updates(conv4, start, [make_support(1)], recipe, Privacy(), generators(1))
    assert set(update.difference) == {name for name in start if name.endswith(".scale")}
    moved = federated_step(start, [update], 1.0)
    assert set(weight_ops.changed(start, moved)) == set(update.difference)


def test_a_long_difference_is_scaled_down_to_the_clip_norm(conv4: Net, make_support: MakeSupport) -> None:
    (free,) = updates_of(conv4, [make_support(1)], Privacy())
    (clipped,) = updates_of(conv4, [make_support(1)], Privacy(clip_norm=norm(free.difference) / 4))
    torch.testing.assert_close(flat(clipped), flat(free) / 4)


def test_a_short_difference_is_not_changed_by_clipping(conv4: Net, make_support: MakeSupport) -> None:
    (free,) = updates_of(conv4, [make_support(1)], Privacy())
    (clipped,) = updates_of(conv4, [make_support(1)], Privacy(clip_norm=2 * norm(free.difference)))
    assert torch.equal(flat(clipped), flat(free))


def test_the_noise_of_a_cohort_adds_up_to_the_multiplier(conv4: Net, make_support: MakeSupport) -> None:
    privacy = Privacy(clip_norm=0.5, noise_multiplier=3.0, cohort=16)
    support = make_support(1)
    start = conv4.start()
    (silent,) = client_updates(conv4, start, [support], NO_STEPS, Privacy(clip_norm=0.5), generators(1))
    noisy = client_updates(conv4, start, [support] * 16, NO_STEPS, privacy, generators(16))
    total = torch.stack([flat(update) for update in noisy]).sum(0)
    assert not flat(silent).any()
    assert float(total.std()) == pytest.approx(3.0 * 0.5, rel=0.1)
    assert float(flat(noisy[0]).std()) == pytest.approx(3.0 * 0.5 / 4, rel=0.1)


def test_noise_depends_on_the_clients_generator_alone(conv4: Net, make_support: MakeSupport) -> None:
    privacy = Privacy(clip_norm=0.5, noise_multiplier=1.0)
    support = make_support(1)
    first, again, other = (flat(updates_of(conv4, [support], privacy, seed)[0]) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_clients_of_a_batch_send_what_each_would_send_alone(conv4: Net, make_support: MakeSupport) -> None:
    supports = [make_support(seed) for seed in range(3)]
    together = updates_of(conv4, supports, Privacy(clip_norm=0.1, noise_multiplier=0.5, cohort=3))
    for client, support in enumerate(supports):
        (alone,) = updates_of(conv4, [support], Privacy(clip_norm=0.1, noise_multiplier=0.5, cohort=3), seed=client)
        torch.testing.assert_close(flat(alone), flat(together[client]), rtol=1e-4, atol=1e-5)


def test_a_client_whose_adaptation_diverges_sends_nothing(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=4, learning_rate=1e30, batch_size=4)
    with pytest.raises(AdaptationDiverged):
        client_updates(conv4, conv4.start(), [make_support(1)], recipe, Privacy(), generators(1))


def test_moments_of_the_optimiser_do_not_travel(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=1, learning_rate=0.01, optimiser="adam", carry_moments=True)
    with pytest.raises(InvalidConfig, match="carry_moments"):
        client_updates(conv4, conv4.start(), [make_support(1)], recipe, Privacy(), generators(1))


def test_clients_that_drop_out_are_left_out_of_the_mean() -> None:
    start = {"kernel": torch.zeros(2)}
    replies = [ClientUpdate({"kernel": torch.tensor([value, 0.0])}, samples=1) for value in (1.0, 3.0)]
    assert federated_step(start, replies, 0.5, cohort=2)["kernel"].tolist() == [1.0, 0.0]


def test_a_client_with_many_samples_counts_as_much_as_one_with_few() -> None:
    start = {"kernel": torch.zeros(1)}
    replies = [ClientUpdate({"kernel": torch.tensor([value])}, samples) for value, samples in ((1.0, 1), (3.0, 999))]
    assert federated_step(start, replies, 1.0)["kernel"].tolist() == [2.0]


def test_a_round_with_too_few_clients_is_refused() -> None:
    reply = ClientUpdate({"kernel": torch.ones(1)}, samples=1)
    with pytest.raises(CohortTooSmall, match="1 clients replied in this round; at least 2 are needed"):
        federated_step({"kernel": torch.zeros(1)}, [reply], 1.0, cohort=2)


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"other": torch.zeros(1)}, "no weight of that name"),
        ({"kernel": torch.zeros(2)}, r"shape \(2,\); the start has \(1,\)"),
        ({"kernel": torch.tensor([math.nan])}, "not finite"),
    ],
)
def test_an_update_that_does_not_fit_the_start_is_refused(difference: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        federated_step({"kernel": torch.zeros(1)}, [ClientUpdate(difference, samples=1)], 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.inf}, "clip_norm"),
        ({"clip_norm": 1.0, "noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": 1.0}, "needs a clip_norm"),
        ({"cohort": 0}, "cohort"),
    ],
)
def test_privacy_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        Privacy(**settings)  # type: ignore[arg-type]


def test_delta_of_the_gaussian_mechanism_matches_its_definition() -> None:
    # The hockey-stick divergence of N(mu, 1) from N(0, 1), integrated over a grid.
    mu, epsilon = 1.3, 0.7
    x = np.linspace(-12, 14, 400_001)
    near, far = (np.exp(-((x - centre) ** 2) / 2) / math.sqrt(2 * math.pi) for centre in (mu, 0.0))
    integral = np.trapezoid(np.maximum(near - math.exp(epsilon) * far, 0), x)
    assert gaussian_delta(epsilon, mu) == pytest.approx(integral, rel=1e-6)


def test_several_rounds_cost_as_much_as_one_round_with_less_noise() -> None:
    many = Privacy(clip_norm=1.0, noise_multiplier=6.0).epsilon(rounds=9, delta=1e-5)
    assert many == pytest.approx(Privacy(clip_norm=1.0, noise_multiplier=2.0).epsilon(rounds=1, delta=1e-5))


def test_the_noise_multiplier_for_a_budget_spends_exactly_that_budget() -> None:
    multiplier = noise_multiplier_for(8.0, 1e-3, rounds=60)
    assert Privacy(clip_norm=1.0, noise_multiplier=multiplier).epsilon(60, 1e-3) == pytest.approx(8.0)


def test_epsilon_is_infinite_without_noise() -> None:
    assert Privacy(clip_norm=1.0).epsilon(1, 1e-5) == math.inf


def test_a_large_privacy_loss_is_computed_without_overflow() -> None:
    assert 3000 < Privacy(clip_norm=1.0, noise_multiplier=0.1).epsilon(rounds=60, delta=1e-5) < 4000


@pytest.mark.parametrize(("epsilon", "delta", "rounds"), [(0.0, 1e-5, 1), (1.0, 0.0, 1), (1.0, 1.0, 1), (1.0, 0.1, 0)])
def test_budgets_out_of_range_are_refused(epsilon: float, delta: float, rounds: int) -> None:
    with pytest.raises(InvalidConfig, match="allowed: epsilon above 0"):
        noise_multiplier_for(epsilon, delta, rounds)
