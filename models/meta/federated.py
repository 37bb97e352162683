"""Federated Reptile: Reptile whose tasks stay on their devices.

In every round, a device runs the inner loop on its own samples and sends the difference between the adapted weights
and the start, as in federated averaging (McMahan et al. 2017, arXiv:1602.05629). The server moves the start by a share
of the mean difference, which is Reptile's meta step (`models.meta.reptile`). Samples, labels, class names and the head
stay on the device.

A difference can still tell something about the samples. `Privacy` bounds its norm and adds Gaussian noise before it
leaves, so that the rounds are differentially private for each client (McMahan et al. 2018, arXiv:1710.06963). Each
client adds a share of the noise, and the shares of a cohort add up to all of it. So the server need not be trusted to
add it, and with secure aggregation it sees noisy sums alone. The privacy loss of several rounds is that of one Gaussian
mechanism with less noise, and is computed exactly (Balle & Wang 2018, arXiv:1805.06530, theorem 8; Dong et al. 2019,
arXiv:1905.02383, corollary 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.inner_loop import run_inner_loop
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged, CohortTooSmall, InvalidConfig
from models.nets.base import Net
from models.task import Support
from models.weights import Weights


@dataclass(frozen=True)
class Privacy:
    """What a client does to its difference before it sends it.

    Attributes:
        clip_norm: largest L2 norm of a difference; longer ones are scaled down. None does not clip.
        noise_multiplier: standard deviation of the noise in the sum over a cohort, relative to `clip_norm`.
        cohort: smallest number of clients whose differences the server may use, and that share the noise. If more
            reply, there is more noise than promised, never less.

    Raises:
        InvalidConfig: a value out of range, or noise without a clip norm.
    """

    clip_norm: float | None = None
    noise_multiplier: float = 0.0
    cohort: int = 1

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise InvalidConfig(f"clip_norm is {self.clip_norm}; allowed: a finite number above 0, or None")
        if not 0 <= self.noise_multiplier < math.inf:
            raise InvalidConfig(f"noise_multiplier is {self.noise_multiplier}; allowed: a finite number from 0")
        if self.noise_multiplier and self.clip_norm is None:
            raise InvalidConfig("noise_multiplier needs a clip_norm: noise hides only differences of a limited norm")
        if self.cohort < 1:
            raise InvalidConfig(f"cohort is {self.cohort}; allowed: an integer from 1")

    @property
    def client_deviation(self) -> float:
        """Standard deviation of the noise that one client adds to each number of its difference."""
        return 0.0 if self.clip_norm is None else self.noise_multiplier * self.clip_norm / math.sqrt(self.cohort)

    def epsilon(self, rounds: int, delta: float) -> float:
        """Privacy loss of a client that takes part in `rounds` rounds, at `delta`; infinite without noise.

        Two runs are neighbours if they differ in one client, whose difference is zero in the other run. It holds
        towards everyone who sees sums of cohorts, and while the clients of a cohort add their noise honestly.
        """
        if self.noise_multiplier == 0:
            return math.inf
        mu = math.sqrt(rounds) / self.noise_multiplier
        return _bisect(lambda epsilon: gaussian_delta(epsilon, mu) <= delta)


def noise_multiplier_for(epsilon: float, delta: float, rounds: int) -> float:
    """The smallest noise multiplier whose privacy loss over `rounds` rounds is at most `epsilon` at `delta`.

    Raises:
        InvalidConfig: a value out of range.
    """
    if not (epsilon > 0 and 0 < delta < 1 and rounds >= 1):
        raise InvalidConfig(
            f"epsilon {epsilon}, delta {delta}, {rounds} rounds; allowed: epsilon above 0, delta between 0 and 1, and "
            "at least one round"
        )
    return math.sqrt(rounds) * _bisect(lambda scale: gaussian_delta(epsilon, 1 / scale) <= delta)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Delta of a Gaussian mechanism at `epsilon`.

    Args:
        epsilon: from 0.
        mu: sensitivity over the standard deviation of the noise.
    """
    points = torch.tensor([mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu], dtype=torch.float64)
    first, second = torch.special.log_ndtr(points).tolist()
    return math.exp(first) - math.exp(epsilon + second)


def _bisect(holds: Callable[[float], bool]) -> float:
    """The smallest positive number for which `holds` is true, to 12 digits; it is true for all larger ones."""
    high = 1.0
    while not holds(high):
        high *= 2
    low = 0.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class ClientUpdate:
    """Everything that a client sends in a round.

    Attributes:
        difference: adapted weights minus the start, clipped and noisy, for the names that the inner loop adapts.
        samples: number of labelled samples that it learned from.
    """

    difference: Weights
    samples: int


def adapted_names(start: Weights, recipe: InnerLoopConfig) -> list[str]:
    """Names of the start's weights that an inner loop changes, in name order; only these travel.

    Raises:
        InvalidConfig: a multiplier pattern matches no weight.
    """
    head = [name for name, _ in recipe.lr_multipliers if name.startswith("head.")]
    multipliers = weight_ops.lr_multipliers_by_name([*start, *head], recipe.lr_multipliers)
    return sorted(name for name in start if multipliers[name] > 0)


def client_updates(
    net: Net,
    start: Weights,
    supports: Sequence[Support],
    recipe: InnerLoopConfig,
    privacy: Privacy,
    generators: Sequence[torch.Generator],
) -> list[ClientUpdate]:
    """Run one round on clients: one on a device, several in a simulation.

    Args:
        net: the architecture.
        start: the start of the round, (...) each.
        supports: the samples of each client.
        recipe: the inner loop.
        privacy: clipping and noise.
        generators: one per client, the source of all its draws. On a device, seed it from the system's entropy: anyone
            who knows the seed can subtract the noise.

    Raises:
        AdaptationDiverged: a difference is not finite. Such a client must not reply, since one NaN spoils the sum.
        InvalidConfig: the recipe carries Adam's moments, which federated rounds do not send.
    """
    if recipe.carry_moments:
        raise InvalidConfig("carry_moments is set; federated rounds send no moments of the optimiser, so turn it off")
    seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in generators]
    adapted = run_inner_loop(net, weight_ops.expand(start, len(supports)), supports, recipe, seeds)
    names = adapted_names(start, recipe)
    updates = []
    for task, (support, generator) in enumerate(zip(supports, generators, strict=True)):
        difference = {name: (adapted.weights[name][task] - start[name]).contiguous() for name in names}
        if not all(bool(tensor.isfinite().all()) for tensor in difference.values()):
            raise AdaptationDiverged(recipe.steps, (task,))
        updates.append(ClientUpdate(_private(difference, privacy, generator), len(support.sample_labels)))
    return updates


def _private(difference: Weights, privacy: Privacy, generator: torch.Generator) -> dict[str, Tensor]:
    """The difference with its norm bounded, then with the client's share of the noise."""
    scale = 1.0 if privacy.clip_norm is None else min(1.0, privacy.clip_norm / max(norm(difference), 1e-30))
    return {
        name: tensor * scale + privacy.client_deviation * torch.randn(tensor.shape, generator=generator)
        if privacy.client_deviation
        else tensor * scale
        for name, tensor in difference.items()
    }


def norm(difference: Weights) -> float:
    """L2 norm of all numbers of a difference together."""
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in difference.values()))


def federated_step(
    start: Weights, updates: Sequence[ClientUpdate], step_size: float, cohort: int = 1
) -> dict[str, Tensor]:
    """Move the start by `step_size` times the mean difference; Reptile's meta step over the clients that replied.

    Each client counts the same, however many samples it has: otherwise a large one would need more noise.

    Raises:
        CohortTooSmall: fewer than `cohort` clients replied.
        InvalidConfig: an update has unknown names, other shapes than the start, or numbers that are not finite.
    """
    if len(updates) < cohort:
        raise CohortTooSmall(len(updates), cohort)
    for update in updates:
        _check_update(start, update)
    mean = weight_ops.mean([update.difference for update in updates])
    return {**start, **weight_ops.add_scaled({name: start[name] for name in mean}, mean, step_size)}


def _check_update(start: Weights, update: ClientUpdate) -> None:
    for name, tensor in update.difference.items():
        if name not in start or tensor.shape != start[name].shape:
            expected = tuple(start[name].shape) if name in start else "no weight of that name"
            raise InvalidConfig(f"an update has {name!r} of shape {tuple(tensor.shape)}; the start has {expected}")
        if not bool(tensor.isfinite().all()):
            raise InvalidConfig(f"an update has numbers in {name!r} that are not finite; leave its client out")
