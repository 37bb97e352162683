"""A net for surfaces: five blocks whose channel statistics, at several scales, are the features.

What tells one texture or defect from another is how often and how strongly a filter responds anywhere, not where. So
each of the last four blocks gives the mean and the standard deviation of its channels over the image (the idea of
texture descriptors by filter-bank statistics, Varma & Zisserman 2005), and no feature depends on position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.config import NetConfig
from models.nets.base import Net
from models.nets.normalisation import ConvNorm, Standardise

SPREAD_EPSILON = 1e-4
PLAN = (("block1", 5, 2, 4), ("block2", 3, 2, 6), ("block3", 3, 1, 8), ("block4", 3, 2, 12), ("block5", 3, 1, 16))
"""Name, kernel, stride, and channels in sixteenths of the width."""


class PooledBlock(ConvNorm):
    """Convolution, normalisation and ReLU, which also pools its maps."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """(batch, channels, height, width) -> maps, and their means and deviations, (batch, channels) each."""
        maps = torch.relu_(super().forward(images))
        return maps, *_mean_and_deviation(maps)


class SurfaceNet(Net):
    """Five blocks of convolution, normalisation and ReLU; mean and deviation of the last four are the features."""

    stage_names = tuple(name for name, *_ in PLAN)

    def __init__(self, config: NetConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.feature_count = 0
        channels = config.image.channels
        for name, kernel, stride, sixteenths in PLAN:
            width = config.width * sixteenths // 16
            block = ConvNorm if name == "block1" else PooledBlock
            self.add_module(name, block(channels, width, kernel, generator, stride))
            channels = width
            self.feature_count += 0 if name == "block1" else 2 * width
        self.pooled = Standardise()

    def forward(self, images: Tensor) -> Tensor:
        """See `Net.forward`."""
        tasks = images.shape[1] // self.config.image.channels  # 1, unless tasks are side by side
        first, *others = self.stage_names
        maps = torch.relu_(self.run_stage(first, images))
        pooled = []
        for name in others:
            maps, mean, deviation = self.run_stage(name, maps)
            pooled += [own.unflatten(1, (tasks, -1)) for own in (mean, deviation)]
        features: Tensor = self.pooled(torch.cat(pooled, dim=-1).flatten(1))
        return features


def _mean_and_deviation(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the pixels: (batch, channels, height, width) -> two (batch, channels).

    They are float32 at least: images differ by less of a channel's mean than half precision can resolve.
    """
    pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (batch, pixels, channels): a view, where channels are last
    mean = pixels.mean(1, dtype=torch.promote_types(maps.dtype, torch.float32))
    variance = (pixels - mean[:, None]).square().mean(1)  # two plain passes over the view
    return mean, torch.sqrt(variance + SPREAD_EPSILON)
