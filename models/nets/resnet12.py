"""ResNet-12 of few-shot learning: four residual blocks of three convolutions, averaged over the last map.

Blocks and widths (64, 160, 320, 640) are those of Lee et al. 2019 (MetaOptNet, arXiv:1904.03758), after Oreshkin et al.
2018 (TADAM, arXiv:1805.10123), with the leaky ReLU of 0.1 of MetaOptNet's code. DropBlock is left out: adaptation draws
nothing at random but its batches. The maps are averaged as in TADAM, so that the head stays small.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import NetConfig
from models.nets.base import Net
from models.nets.normalisation import ConvNorm

_WIDTHS = (1.0, 2.5, 5.0, 10.0)
"""Channels of the blocks, as multiples of the net's width."""
SLOPE = 0.1


class ResidualBlock(nn.Module):
    """Three 3 x 3 convolutions and, beside them, a 1 x 1 one; their sum is halved by max pooling, rounding down."""

    def __init__(self, channels_in: int, channels_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels_out, 3, generator)
        self.conv2 = ConvNorm(channels_out, channels_out, 3, generator)
        self.conv3 = ConvNorm(channels_out, channels_out, 3, generator)
        self.shortcut = ConvNorm(channels_in, channels_out, 1, generator)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, channels, height // 2, width // 2)."""
        maps = _leaky_relu(self.conv2(_leaky_relu(self.conv1(images))))
        return F.max_pool2d(_leaky_relu(self.conv3(maps) + self.shortcut(images)), 2)


class ResNet12(Net):
    """Four residual blocks and global average pooling.

    With 84 x 84 images the maps are 42, 21, 10 and 5 wide; width 64 has 640 features and 12.4 million weights.
    """

    stage_names = ("block1", "block2", "block3", "block4")

    def __init__(self, config: NetConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        channels = config.image.channels
        for name, multiple in zip(self.stage_names, _WIDTHS, strict=True):
            width = int(config.width * multiple)
            self.add_module(name, ResidualBlock(channels, width, generator))
            channels = width
        self.feature_count = channels

    def forward(self, images: Tensor) -> Tensor:
        """See `Net.forward`."""
        for name in self.stage_names:
            images = self.run_stage(name, images)
        return images.mean((2, 3), dtype=torch.promote_types(images.dtype, torch.float32))


def _leaky_relu(maps: Tensor) -> Tensor:
    """Leaky ReLU in place, so that the backward pass keeps one map less."""
    return F.leaky_relu(maps, SLOPE, inplace=True)
