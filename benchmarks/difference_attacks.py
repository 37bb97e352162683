"""The attack on what a client sends in a round of federated Reptile, for `benchmarks.federated_privacy`.

The attacker knows the start of the round, the recipe, and how differences are protected, as a server does. It simulates
shadow clients with and without a candidate, which give the distributions of what it observes (Carlini et al. 2022,
arXiv:2112.03570; from a client's update: Zari et al. 2021, arXiv:2111.00430, and Zhu et al. 2024, arXiv:2402.06289).
Observations have thousands of dimensions. So they are taken as Gaussian with one covariance: a shrunk linear
discriminant for each candidate, then a likelihood ratio of the one number that it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from benchmarks.clinics import NET
from models.config import InnerLoopConfig
from models.meta.federated import Privacy, client_updates
from models.nets import build
from models.task import Support
from models.weights import Weights

FALSE_ALARMS: Final = 0.01
_TASKS: Final = 32
_SHRINKAGES: Final = (0.01, 0.1, 1.0, 10.0)


def flatten(difference: Weights) -> Tensor:
    """All numbers of a difference in name order: (numbers,)."""
    return torch.cat([difference[name].flatten() for name in sorted(difference)])


def sent_differences(start: Weights, supports: Sequence[Support], recipe: InnerLoopConfig, seed: int) -> Tensor:
    """What clients would send without protection: (clients, numbers)."""
    net, rows = build(NET), []
    for first in range(0, len(supports), _TASKS):
        part = supports[first : first + _TASKS]
        generators = [torch.Generator().manual_seed((seed << 20) + first + task) for task in range(len(part))]
        updates = client_updates(net, start, part, recipe, Privacy(), generators)
        rows += [flatten(update.difference) for update in updates]
    return torch.stack(rows)


@dataclass(frozen=True)
class View:
    """What the attacker sees.

    Attributes:
        name: of the table's row.
        privacy: what each client does to its difference.
        cohort: 1 for the difference of one client; otherwise the mean over so many clients.
    """

    name: str
    privacy: Privacy
    cohort: int = 1

    def observe(self, targets: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """Observations of clients, (clients, numbers), with others of the cohort drawn from (others, numbers)."""
        seen = clipped(targets, self.privacy)
        if self.cohort > 1:
            companions = clipped(others, self.privacy)
            for row in seen:
                row += companions[torch.randperm(len(others), generator=generator)[: self.cohort - 1]].sum(0)
        deviation: float = self.privacy.client_deviation * self.cohort**0.5
        return seen.add(torch.randn(seen.shape, generator=generator), alpha=deviation) / self.cohort


def clipped(differences: Tensor, privacy: Privacy) -> Tensor:
    """A copy of (clients, numbers) with the norm of each row bounded."""
    if privacy.clip_norm is None:
        return differences.clone()
    norms: Tensor = torch.linalg.vector_norm(differences, dim=1, keepdim=True)
    return differences * torch.clamp(privacy.clip_norm / norms, max=1)


@dataclass(frozen=True)
class Observed:
    """Observations of clients, and the truth about candidates.

    Attributes:
        seen: (clients, numbers).
        member: bool (clients, candidates), what the attacker wants to know.
        asked: bool (clients, candidates), where the question is put.
    """

    seen: Tensor
    member: Tensor
    asked: Tensor

    def part(self, rows: slice) -> Observed:
        """Some of the clients."""
        return Observed(self.seen[rows], self.member[rows], self.asked[rows])

    def weights(self, *, member: bool) -> Tensor:
        """Weights of the clients in the mean over those with, or without, a candidate: (candidates, clients)."""
        chosen = (self.asked & (self.member == member)).float()
        return (chosen / chosen.sum(0).clamp(min=1)).T

    def split(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, (clients, candidates), of members and of others."""
        return scores[self.asked & self.member], scores[self.asked & ~self.member]


@dataclass(frozen=True)
class Discriminant:
    """One number for each candidate, and what it is among members and others.

    Attributes:
        direction: (candidates, numbers).
        inside, outside: mean among members and among others, (candidates,).
        variance: around either mean, (candidates,).
    """

    direction: Tensor
    inside: Tensor
    outside: Tensor
    variance: Tensor

    @classmethod
    def calibrated(cls, direction: Tensor, shadows: Observed) -> Discriminant:
        """Measure what a direction gives on shadow clients that it was not made of."""
        values = shadows.seen @ direction.T  # (clients, candidates)
        inside, outside = ((shadows.weights(member=member) * values.T).sum(1) for member in (True, False))
        centred = (values - torch.where(shadows.member, inside, outside)) * shadows.asked
        variance = centred.square().sum(0) / (shadows.asked.sum(0) - 2).clamp(min=1)
        return cls(direction, inside, outside, variance.clamp(min=1e-30))

    @property
    def separation(self) -> float:
        """Mean distance of members from others, in standard deviations."""
        return float(((self.inside - self.outside) / self.variance.sqrt()).mean())

    def scores(self, seen: Tensor) -> Tensor:
        """Log likelihood ratios: (clients, numbers) -> (clients, candidates)."""
        middle, slope = (self.inside + self.outside) / 2, (self.inside - self.outside) / self.variance
        return (seen @ self.direction.T - middle) * slope


def likelihood_ratio(shadows: Observed) -> Discriminant:
    """Make the attack from shadow clients: half of them for the directions, half for the distributions.

    The shrinkage of the covariance is the one that tells the second half apart best.
    """
    half = len(shadows.seen) // 2
    fitted, rest = shadows.part(slice(0, half)), shadows.part(slice(half, None))
    shift = (fitted.weights(member=True) - fitted.weights(member=False)) @ fitted.seen
    spread = fitted.seen - fitted.seen.mean(0)
    gram = spread @ spread.T  # the covariance is too large to invert; Woodbury's identity needs this alone
    ridge = float(gram.trace()) / half * torch.eye(half)
    found = []
    for shrinkage in _SHRINKAGES:
        inner = torch.linalg.solve(shrinkage * ridge + gram, spread @ shift.T)
        found.append(Discriminant.calibrated(shift - inner.T @ spread, rest))
    return max(found, key=lambda each: each.separation)


def hit_rate(members: Tensor, others: Tensor) -> float:
    """Share of members above all but 1 % of the others."""
    ordered = others.sort().values
    return float((members > ordered[int((1 - FALSE_ALARMS) * len(ordered))]).double().mean())
