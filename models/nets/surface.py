"""A net for surfaces: five blocks whose channel statistics, at several scales, are the features.

What tells one texture or defect from another is how often and how strongly a filter answers anywhere, not where; so
each of the last four blocks gives the mean and the standard deviation of its channels over the image (the idea of
texture descriptors by filter-bank statistics, Varma & Zisserman 2005), and no feature depends on position.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from models.config import NetConfig
from models.nets.base import ConvNorm, Net
from models.nets.normalisation import Pass

SPREAD_EPSILON = 1e-4
PLAN = (("block1", 5, 2, 4), ("block2", 3, 2, 6), ("block3", 3, 1, 8), ("block4", 3, 2, 12), ("block5", 3, 1, 16))
"""Name, kernel, stride, and channels in sixteenths of the width."""
POOLED = frozenset({"block2", "block3", "block4", "block5"})


class SurfaceNet(Net):
    """Five blocks of convolution, normalisation and ReLU; mean and spread of the last four are the features."""

    def __init__(self, spec: NetConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        self.feature_count = 0
        channels = spec.image.channels
        for name, kernel, _, sixteenths in PLAN:
            width = spec.width * sixteenths // 16
            self.add_module(name, ConvNorm(channels, width, kernel, generator))
            channels = width
            if name in POOLED:
                self.feature_count += 2 * width

    def features(self, layers: Pass, images: Tensor) -> Tensor:
        """See `Net.features`."""
        pooled = []
        for name, _, stride, _ in PLAN:
            images, own = layers.block(partial(_block, layers, name, stride), images)
            pooled += own
        return layers.standardise("pooled", torch.cat(pooled, dim=-1))


def _block(layers: Pass, name: str, stride: int, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A block's maps and, of those that are pooled, mean and spread."""
    maps = torch.relu_(layers.conv(name, images, stride))
    return maps, _mean_and_spread(maps, layers.tasks) if name in POOLED else []


def _mean_and_spread(maps: Tensor, tasks: int) -> list[Tensor]:
    """Mean and standard deviation over the pixels: (batch, tasks * channels, h, w) -> two (tasks, batch, channels).

    They are float32 at least: images differ by less of a channel's mean than half precision tells apart.
    """
    pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (batch, pixels, channels): a view, where channels are last
    mean = pixels.mean(1, dtype=torch.promote_types(maps.dtype, torch.float32))
    variance = (pixels - mean[:, None]).square().mean(1)  # two plain passes over the view
    spread = torch.sqrt(variance + SPREAD_EPSILON)
    return [part.reshape(maps.shape[0], tasks, -1).transpose(0, 1) for part in (mean, spread)]
