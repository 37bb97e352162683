"""ResNet-12 of few-shot learning: four residual blocks of three convolutions, averaged over the last map.

Blocks and widths (64, 160, 320, 640) are those of Lee et al. 2019 (MetaOptNet, arXiv:1904.03758), after Oreshkin et al.
2018 (TADAM, arXiv:1805.10123), with the leaky ReLU of 0.1 of MetaOptNet's code. There is no DropBlock: adaptation draws
nothing but its batches. The maps are averaged as in TADAM, so that the head stays small.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import NetConfig
from models.nets.base import ConvNorm, Net
from models.nets.normalisation import Pass

BLOCKS = ("block1", "block2", "block3", "block4")
_HALVES = (2, 5, 10, 20)
"""Channels of the blocks, in halves of the width."""
SLOPE = 0.1


class ResNet12(Net):
    """Blocks of three 3 x 3 convolutions beside a 1 x 1 one, added, and 2 x 2 max pooling after each.

    With 84 x 84 images the maps are 42, 21, 10 and 5 wide; width 64 has 640 features and 12.4 million weights.
    """

    def __init__(self, spec: NetConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        channels = spec.image.channels
        for name, halves in zip(BLOCKS, _HALVES, strict=True):
            width = spec.width * halves // 2
            self.add_module(name, _residual(channels, width, generator))
            channels = width
        self.feature_count = channels

    def features(self, layers: Pass, images: Tensor) -> Tensor:
        """See `Net.features`."""
        for name in BLOCKS:
            images = layers.block(partial(_block, layers, name), images)
        means = images.mean((2, 3), dtype=torch.promote_types(images.dtype, torch.float32))  # (batch, tasks * channels)
        return means.reshape(images.shape[0], layers.tasks, -1).transpose(0, 1)  # (tasks, batch, feature_count)


def _residual(channels: int, width: int, generator: torch.Generator) -> nn.ModuleDict:
    """The weights of one block."""
    return nn.ModuleDict(
        {
            "conv1": ConvNorm(channels, width, 3, generator),
            "conv2": ConvNorm(width, width, 3, generator),
            "conv3": ConvNorm(width, width, 3, generator),
            "shortcut": ConvNorm(channels, width, 1, generator),
        }
    )


def _block(layers: Pass, name: str, images: Tensor) -> Tensor:
    """(batch, tasks * in, h, w) -> (batch, tasks * out, h // 2, w // 2)."""
    maps = images
    for place in ("conv1", "conv2"):
        maps = _leaky(layers.conv(f"{name}.{place}", maps, stride=1))
    maps = layers.conv(f"{name}.conv3", maps, stride=1) + layers.conv(f"{name}.shortcut", images, stride=1)
    return F.max_pool2d(_leaky(maps), 2)


def _leaky(maps: Tensor) -> Tensor:
    """Leaky ReLU in place of its argument, which nothing else needs: one map less is kept for the backward pass."""
    return F.leaky_relu(maps, SLOPE, inplace=True)
