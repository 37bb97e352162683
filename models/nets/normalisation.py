"""Normalisation layers whose weights and statistics may differ by task.

A layer looks at the tensors it is called with (see `models.nets.base.call_net`):

- Kernels of shape (tasks, out, in, kernel, kernel) differ by task. Images then come *side by side*,
  (batch, tasks * channels, height, width), and one grouped convolution serves all tasks.
- Kernels of shape (out, in, kernel, kernel) are shared. Images come *one after another*,
  (tasks * batch, channels, height, width), and a scale and shift of shape (tasks, channels) applies to each task's
  share of them.

Without ``mean`` and ``variance`` a layer normalises by the batch at hand; with them, by these fixed statistics. With
``bias`` the statistics have already been folded into the kernels (see `fold`). Statistics are one mean and one biased
variance per channel and task (Ioffe & Szegedy 2015, arXiv:1502.03167).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.weights import Weights

EPSILON = 1e-5
"""Added to every variance."""


class Normalisation(nn.Module):
    """Base of the layers that normalise.

    Attributes:
        mean: (channels,) or (tasks, channels); None normalises by the batch at hand.
        variance: biased variance, of the same shape.
        recording: whether to keep the batch's statistics in `recorded`.
        recorded: statistics of the last batch by name: mean and variance, (tasks * channels,) each.
    """

    mean: Tensor | None
    variance: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("variance", None)
        self.recording = False
        self.recorded: dict[str, Tensor] = {}


class ConvNorm(Normalisation):
    """Convolution without a bias, then normalisation with a scale and a shift.

    Args:
        channels_in: channels of the images.
        channels_out: number of kernels.
        kernel: side of a kernel in pixels; the padding keeps the size of images at stride 1.
        generator: draws the kernels (He et al. 2015, arXiv:1502.01852: normal, fan-out).
        stride: in pixels.

    Attributes:
        weight: (channels_out, channels_in, kernel, kernel).
        scale: (channels_out,), initially 1.
        shift: (channels_out,), initially 0.
        bias: (channels_out,), of folded weights only, else None.
        by_image: normalise each image by its own mean and variance over all channels and pixels. Then there are no
            statistics to record, to fix or to fold.
    """

    bias: Tensor | None

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, generator: torch.Generator, stride: int = 1
    ) -> None:
        super().__init__()
        deviation = (2.0 / (channels_out * kernel * kernel)) ** 0.5
        drawn = torch.randn(channels_out, channels_in, kernel, kernel, generator=generator)
        self.weight = nn.Parameter(drawn * deviation)
        self.scale = nn.Parameter(torch.ones(channels_out))
        self.shift = nn.Parameter(torch.zeros(channels_out))
        self.register_buffer("bias", None)
        self.stride = stride
        self.by_image = False

    def forward(self, images: Tensor) -> Tensor:
        """Convolve and normalise (batch, channels, height, width)."""
        per_task = self.weight.ndim == 5
        kernels = self.weight.flatten(0, 1) if per_task else self.weight
        groups = self.weight.shape[0] if per_task else 1
        bias = None if self.bias is None else self.bias.flatten()
        maps = F.conv2d(images, kernels, bias, self.stride, (kernels.shape[-1] - 1) // 2, groups=groups)
        if bias is not None:
            return maps
        if self.by_image:
            return self._normalise_by_image(maps, groups)
        return self._normalise(maps) if per_task or self.scale.ndim == 1 else self._normalise_per_task(maps)

    def _normalise_by_image(self, maps: Tensor, tasks_side_by_side: int) -> Tensor:
        """Normalise (batch, tasks * channels, ...), or (tasks * batch, channels, ...) with tasks one after another."""
        maps = F.group_norm(maps, tasks_side_by_side, eps=EPSILON)
        side_by_side = tasks_side_by_side > 1 or self.scale.ndim == 1 or len(self.scale) == 1
        scale, shift = (
            own.flatten()[None] if side_by_side else own.repeat_interleave(len(maps) // len(own), 0)
            for own in (self.scale, self.shift)
        )
        return torch.addcmul(shift[..., None, None], maps, scale[..., None, None])

    def _normalise(self, maps: Tensor) -> Tensor:
        if self.recording:
            pixels = maps.detach().permute(0, 2, 3, 1).flatten(0, 2)  # (batch * pixels, tasks * channels)
            mean = pixels.mean(0)
            self.recorded = {"mean": mean, "variance": (pixels - mean).square().mean(0)}
        scale, shift = self.scale.flatten(), self.shift.flatten()
        if self.mean is None or self.variance is None:
            return F.batch_norm(maps, None, None, scale, shift, training=True, eps=EPSILON)
        return F.batch_norm(maps, self.mean.flatten(), self.variance.flatten(), scale, shift, eps=EPSILON)

    def _normalise_per_task(self, maps: Tensor) -> Tensor:
        """Normalise the maps of a shared convolution with scale and shift (tasks, channels)."""
        by_task = maps.view(self.scale.shape[0], -1, *maps.shape[1:])  # (tasks, batch, channels, height, width)
        mean, variance = self.mean, self.variance
        if mean is None or variance is None:
            variance, mean = torch.var_mean(by_task, (1, 3, 4), correction=0)  # (tasks, channels)
            if self.recording:
                self.recorded = {"mean": mean.detach().flatten(), "variance": variance.detach().flatten()}
        slope = self.scale * torch.rsqrt(variance + EPSILON)
        offset = self.shift - mean * slope
        slope, offset = (own[:, None, :, None, None] for own in (slope, offset))
        return torch.addcmul(offset, by_task, slope).flatten(0, 1).to(maps.dtype)


class Standardise(Normalisation):
    """Shift and scale each feature to mean 0 and variance 1 over a task's batch, or by fixed statistics.

    Attributes:
        tasks: number of tasks whose features lie one after another; `models.nets.base.call_net` sets it.
        scale: (features,), of folded weights only, else None.
        shift: (features,), of folded weights only, else None.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", None)
        self.register_buffer("shift", None)
        self.tasks = 1

    def forward(self, features: Tensor) -> Tensor:
        """Standardise (tasks * batch, features) or, side by side, (batch, tasks * features)."""
        by_task = features.view(self.tasks, -1, features.shape[-1])  # (tasks, batch, features)
        if self.scale is not None and self.shift is not None:
            scale, shift = (own.reshape(-1, 1, by_task.shape[-1]) for own in (self.scale, self.shift))
            return torch.addcmul(shift, by_task, scale).flatten(0, 1)
        if self.mean is None or self.variance is None:
            variance, mean = torch.var_mean(by_task, 1, keepdim=True, correction=0)
            variance = self.regularise(variance, by_task)
            if self.recording:
                self.recorded = {"mean": mean.detach().flatten(), "variance": variance.detach().flatten()}
        else:
            mean, variance = (own.reshape(-1, 1, by_task.shape[-1]) for own in (self.mean, self.variance))
        return ((by_task - mean) * torch.rsqrt(variance + EPSILON)).flatten(0, 1)

    def regularise(self, variance: Tensor, _by_task: Tensor) -> Tensor:
        """Adjust the variance of few samples, (tasks, 1, features); here, not at all.

        Args:
            variance: of the batch.
            _by_task: the batch, (tasks, batch, features).
        """
        return variance


def fold(weights: Weights, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply fixed statistics into the kernels, which then need no normalisation.

    A convolution's scale and shift become its bias, and a standardisation becomes one scale and one shift. The head, a
    patch memory and layers without statistics stay as they are.

    Args:
        weights: of one task, or stacked, with kernels per task.
        statistics: name of a layer + ``.mean`` or ``.variance`` -> (channels,), or stacked; and ``.limit``, see
            `models.nets.backbone.StandardiseSupport`.
    """
    normalised = [key.removesuffix(".mean") for key in statistics if key.endswith(".mean")]
    folded = {name: tensor for name, tensor in weights.items() if name.rpartition(".")[0] not in normalised}
    for name in normalised:
        mean, variance = statistics[f"{name}.mean"], statistics[f"{name}.variance"]
        slope = torch.rsqrt(variance + EPSILON)
        if f"{name}.weight" in weights:
            slope = slope * weights[f"{name}.scale"]
            folded[f"{name}.weight"] = weights[f"{name}.weight"] * slope[..., None, None, None]
            folded[f"{name}.bias"] = weights[f"{name}.shift"] - mean * slope
        else:
            folded[f"{name}.scale"] = slope
            folded[f"{name}.shift"] = -mean * slope
            if f"{name}.limit" in statistics:
                folded[f"{name}.limit"] = statistics[f"{name}.limit"]
    return folded
