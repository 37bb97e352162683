"""Gaussians over weights, for Bayesian inner loops (`models.meta.bayesian_reptile`).

A weight ``NAME`` that has a companion ``NAME.log_sd`` of the same shape is Gaussian: the weight is the mean, and the
companion is the logarithm of the standard deviation. Both are ordinary weights to checkpoints, optimisers and the outer
loop. Weights without a companion are plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from models.weights import Weights

SUFFIX = ".log_sd"

_INITIAL_LOG_SD = -3.0
"""A standard deviation of 0.05. Scales are initially 1, so this is a small change of a feature."""


def spread_weights(start: Weights, patterns: Sequence[str]) -> dict[str, Tensor]:
    """Return the start with a companion for each weight that matches one of the `fnmatch` patterns."""
    chosen = [name for name in start if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return {**start, **{name + SUFFIX: torch.full_like(start[name], _INITIAL_LOG_SD) for name in chosen}}


def gaussian_names(weights: Weights) -> list[str]:
    """Names of the weights that have a companion."""
    return [name for name in weights if name + SUFFIX in weights]


def means(weights: Weights) -> dict[str, Tensor]:
    """The weights without the companions: the point estimate."""
    companions = {name + SUFFIX for name in gaussian_names(weights)}
    return {name: tensor for name, tensor in weights.items() if name not in companions}


def draw_noise(weights: Weights, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Draw a standard normal number for every number of every Gaussian weight.

    Args:
        weights: stacked, (tasks, ...) each.
        generators: one per task, so that no task's draws depend on the others.

    Returns:
        Name of a Gaussian weight -> (tasks, ...).
    """
    noise = {}
    for name in gaussian_names(weights):
        shape, device = weights[name].shape[1:], weights[name].device
        noise[name] = torch.stack([torch.randn(shape, generator=own) for own in generators]).to(device)
    return noise


@dataclass(frozen=True)
class GaussianStep:
    """What one inner step does with Gaussian weights; without any, nothing.

    Attributes:
        prior: the starting weights, stacked, (tasks, ...) each.
        rows: support images of each task, (tasks,).
        noise: from `draw_noise`.
        learning_rate: of the step.
    """

    prior: Weights
    rows: Tensor
    noise: Weights
    learning_rate: float

    def sample(self, weights: Weights) -> dict[str, Tensor]:
        """Replace the means by one sample: mean + standard deviation * noise (Kingma & Welling 2014, section 2.4)."""
        drawn = {name: weights[name] + weights[name + SUFFIX].exp() * own for name, own in self.noise.items()}
        return {**weights, **drawn}

    def penalty(self, weights: Weights) -> Tensor:
        """Divergence from the prior for each support image, (tasks,), as the step takes it; see `divergence`."""
        return divergence(weights, self.prior, self.learning_rate / self.rows) / self.rows


def divergence(posterior: Weights, prior: Weights, step: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the Gaussian weights from those of the prior, in nats.

    A gradient step pulls a mean back by step / prior variance of its distance, which overshoots where the prior is
    narrow. With `step`, the term of the means is divided by 1 + step / prior variance: its gradient step then ends
    where an implicit step does, and never beyond the prior mean (Kulis & Bartlett 2010).

    Args:
        posterior: stacked, (tasks, ...) each.
        prior: the same names and shapes.
        step: learning rate over support images, (tasks,); None gives the divergence itself.

    Returns:
        (tasks,); a scalar 0 without Gaussian weights.
    """
    parts = []
    for name in gaussian_names(posterior):
        log_ratio = posterior[name + SUFFIX] - prior[name + SUFFIX]
        variance = (2 * prior[name + SUFFIX]).exp()
        if step is not None:
            variance = variance + step.view(-1, *[1] * (variance.ndim - 1))
        squares = (posterior[name] - prior[name]).square() / variance
        parts.append((0.5 * ((2 * log_ratio).exp() + squares - 1) - log_ratio).flatten(1).sum(1))
    return torch.stack(parts).sum(0) if parts else torch.zeros(())
