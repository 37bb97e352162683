"""The four-block net of few-shot learning, Reptile (arXiv:1803.02999) appendix A after Finn et al. 2017, section 5.2.

Blocks halve their maps by strided convolutions (Omniglot) or by 2 x 2 max pooling after the ReLU (mini-ImageNet). The
published code pools before it normalises, where fixed statistics could not be folded into the convolution. Variants
have other numbers of blocks, other kernels and so on; `models.meta.search` chooses from them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import NetConfig
from models.nets.base import Net
from models.nets.normalisation import ConvNorm


def block_widths(config: NetConfig) -> list[int]:
    """Channels of each block."""
    return [int(config.width * config.growth**index) for index in range(config.depth)]


class Conv4Block(ConvNorm):
    """Convolution, normalisation and ReLU; the first blocks also make their maps smaller.

    Args:
        channels_in: channels of the images.
        channels_out: channels of the maps.
        generator: draws the kernels.
        config: of the net.
        index: of the block, from 0.
    """

    def __init__(
        self, channels_in: int, channels_out: int, generator: torch.Generator, config: NetConfig, index: int
    ) -> None:
        patches = config.stem if index == 0 else 0
        halves = index < config.halvings and not patches
        stride = patches or (2 if halves and config.pooling == "stride" else 1)
        super().__init__(channels_in, channels_out, patches or config.kernel, generator, stride)
        self.by_image = config.normalisation == "image"
        self.max_pool = halves and config.pooling == "max"

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> maps of `map_side`."""
        maps = torch.relu_(super().forward(images))
        return F.max_pool2d(maps, 2, ceil_mode=True) if self.max_pool else maps

    def map_side(self, side: int) -> int:
        """Side of the maps of images with this side. Halves are rounded up."""
        kernel = self.weight.shape[-1]
        convolved = (side + 2 * ((kernel - 1) // 2) - kernel) // self.stride + 1
        return (convolved + 1) // 2 if self.max_pool else convolved


class Conv4(Net):
    """Blocks of convolution, normalisation and ReLU; the last map is the feature vector.

    As published there are four of them, with kernels of 3 x 3, and each halves its maps. With 28 x 28 images the maps
    are 14, 7, 4 and 2 pixels wide: 2 * 2 * 64 = 256 features. With 84 x 84 images and 32 channels they are 42, 21, 11
    and 6 wide: 6 * 6 * 32 = 1152. Odd maps are rounded up, with both ways of halving.
    """

    def __init__(self, config: NetConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.stage_names = tuple(f"block{number}" for number in range(1, config.depth + 1))
        channels, side = config.image.channels, config.image.side
        for index, (name, width) in enumerate(zip(self.stage_names, block_widths(config), strict=True)):
            block = Conv4Block(channels, width, generator, config, index)
            self.add_module(name, block)
            channels, side = width, block.map_side(side)
        self.feature_count = channels if config.global_pool else channels * side * side

    def forward(self, images: Tensor) -> Tensor:
        """See `Net.forward`."""
        for name in self.stage_names:
            images = self.run_stage(name, images)
        if self.config.global_pool:
            return images.mean((2, 3), dtype=torch.promote_types(images.dtype, torch.float32))
        return images.flatten(1)
