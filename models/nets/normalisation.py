"""Passes: how a net's convolutions are normalised while images go through it.

Three passes share one net definition: by the batch's statistics (inner steps), by frozen ones (an adapted version), and
folded, where frozen statistics have been multiplied into the convolutions (serving). Statistics are one mean and one
biased variance a channel and task (Ioffe & Szegedy 2015). Nothing here knows a net's layers; it is told their names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.weights import Weights

EPSILON = 1e-5
"""Added to every variance."""

Maps = TypeVar("Maps", Tensor, tuple[Tensor, list[Tensor]])
"""What a block of a net gives: maps, or maps and what it has pooled from them."""


class Pass(ABC):
    """Weights of one or more tasks on their way through a net.

    Args:
        weights: stacked weights, (tasks, ...) each.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.tasks = next(iter(weights.values())).shape[0]

    def conv(self, name: str, images: Tensor, stride: int) -> Tensor:
        """Convolve and normalise: (batch, tasks * in, h, w) -> (batch, tasks * out, h / stride, w / stride)."""
        weight = self.weights[f"{name}.weight"]  # (tasks, out, in, kernel, kernel)
        padding = weight.shape[-1] // 2
        return self._normalised(name, images, weight.flatten(0, 1), stride, padding)

    def block(self, run: Callable[[Tensor], Maps], images: Tensor) -> Maps:
        """Run one block of a net; nets call every block by this, so that a pass may choose what it keeps."""
        return run(images)

    @abstractmethod
    def _normalised(self, name: str, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor: ...

    @abstractmethod
    def standardise(self, name: str, features: Tensor) -> Tensor:
        """Bring each feature to mean 0 and variance 1: (tasks, batch, features) -> the same shape."""

    def _affine(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.scale"].flatten(), self.weights[f"{name}.shift"].flatten()


class BatchPass(Pass):
    """Normalises by the statistics of the images at hand.

    Args:
        weights: stacked weights, (tasks, ...) each.
        record: keep the statistics.
        recompute: keep only what goes into each block, and run it again in the backward pass. A recording pass runs
            every block once.

    Attributes:
        statistics: layer name + ".mean" or ".variance" -> (tasks, channels); empty unless recording.
    """

    def __init__(self, weights: Weights, *, record: bool = False, recompute: bool = False) -> None:
        super().__init__(weights)
        self._record = record
        self._recompute = recompute and not record
        self.statistics: dict[str, Tensor] = {}

    def block(self, run: Callable[[Tensor], Maps], images: Tensor) -> Maps:
        """See `Pass.block`."""
        if not self._recompute:
            return run(images)
        again: Maps = checkpoint(run, images, use_reentrant=False, preserve_rng_state=False)  # nothing is drawn
        return again

    def _normalised(self, name: str, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        raw = F.conv2d(images, weight, stride=stride, padding=padding, groups=self.tasks)
        if self._record:
            pixels = raw.detach().permute(0, 2, 3, 1).flatten(0, 2)  # (batch * pixels, tasks * channels)
            mean = pixels.mean(0)
            self._keep(name, (pixels - mean).square().mean(0), mean)
        return F.batch_norm(raw, None, None, *self._affine(name), training=True, eps=EPSILON)

    def standardise(self, name: str, features: Tensor) -> Tensor:
        """See `Pass.standardise`."""
        variance, mean = torch.var_mean(features, 1, keepdim=True, correction=0)
        if self._record:
            self._keep(name, variance.detach(), mean.detach())
        return (features - mean) * torch.rsqrt(variance + EPSILON)

    def _keep(self, name: str, variance: Tensor, mean: Tensor) -> None:
        self.statistics[f"{name}.mean"] = mean.reshape(self.tasks, -1)
        self.statistics[f"{name}.variance"] = variance.reshape(self.tasks, -1)


class FrozenPass(Pass):
    """Normalises by given statistics, so that an image's features depend on nothing but the image.

    Args:
        statistics: as `BatchPass.statistics`.
    """

    def __init__(self, weights: Weights, statistics: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self._statistics = statistics

    def _normalised(self, name: str, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        raw = F.conv2d(images, weight, stride=stride, padding=padding, groups=self.tasks)
        mean = self._statistics[f"{name}.mean"].flatten()
        variance = self._statistics[f"{name}.variance"].flatten()
        return F.batch_norm(raw, mean, variance, *self._affine(name), training=False, eps=EPSILON)

    def standardise(self, name: str, features: Tensor) -> Tensor:
        """See `Pass.standardise`."""
        mean = self._statistics[f"{name}.mean"][:, None]  # (tasks, 1, features)
        variance = self._statistics[f"{name}.variance"][:, None]
        return (features - mean) * torch.rsqrt(variance + EPSILON)


class FoldedPass(Pass):
    """Convolutions that already hold their normalisation: see `fold`."""

    def _normalised(self, name: str, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        bias = self.weights[f"{name}.bias"].flatten()
        return F.conv2d(images, weight, bias, stride=stride, padding=padding, groups=self.tasks)

    def standardise(self, name: str, features: Tensor) -> Tensor:
        """See `Pass.standardise`."""
        return torch.addcmul(self.weights[f"{name}.shift"][:, None], features, self.weights[f"{name}.scale"][:, None])


def fold(weights: Weights, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply frozen statistics into the convolutions: the weights of a `FoldedPass`.

    Works on one task's tensors and on stacked ones alike. A convolution's scale and shift become its bias; a
    standardisation becomes one scale and one shift; the head stays as it is.
    """
    folded = {name: tensor for name, tensor in weights.items() if name.startswith("head.")}
    for name in (key.removesuffix(".mean") for key in statistics if key.endswith(".mean")):
        mean, variance = statistics[f"{name}.mean"], statistics[f"{name}.variance"]
        slope = torch.rsqrt(variance + EPSILON)
        if f"{name}.weight" in weights:
            slope = slope * weights[f"{name}.scale"]
            folded[f"{name}.weight"] = weights[f"{name}.weight"] * slope[..., None, None, None]
            folded[f"{name}.bias"] = weights[f"{name}.shift"] - mean * slope
        else:
            folded[f"{name}.scale"] = slope
            folded[f"{name}.shift"] = -mean * slope
    return folded
