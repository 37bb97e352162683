"""The four-block net of few-shot learning, Reptile (arXiv:1803.02999) appendix A after Finn et al. 2017, section 5.2.

Blocks halve their maps by strided convolutions (Omniglot) or by 2 x 2 max pooling after the ReLU (mini-ImageNet). The
published code pools before it normalises, where fixed statistics could not be folded into the convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import NetConfig
from models.nets.base import Net
from models.nets.normalisation import ConvNorm


class Conv4Block(ConvNorm):
    """Convolution, normalisation and ReLU; halves its maps, rounding up.

    Args:
        channels_in: channels of the images.
        channels_out: channels of the maps.
        generator: draws the kernels.
        pooling: "stride" or "max"; see `NetConfig`.
    """

    def __init__(self, channels_in: int, channels_out: int, generator: torch.Generator, pooling: str) -> None:
        super().__init__(channels_in, channels_out, 3, generator, stride=2 if pooling == "stride" else 1)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, channels, height / 2, width / 2)."""
        maps = torch.relu_(super().forward(images))
        return maps if self.stride == 2 else F.max_pool2d(maps, 2, ceil_mode=True)


class Conv4(Net):
    """Four blocks of 3 x 3 convolution, normalisation and ReLU, each halving; the last map is the feature vector.

    With 28 x 28 images the maps are 14, 7, 4 and 2 pixels wide: 2 * 2 * 64 = 256 features. With 84 x 84 images and 32
    channels they are 42, 21, 11 and 6 wide: 6 * 6 * 32 = 1152. Odd maps are rounded up, with both ways of halving.
    """

    stage_names = ("block1", "block2", "block3", "block4")

    def __init__(self, config: NetConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        channels, side = config.image.channels, config.image.side
        for name in self.stage_names:
            self.add_module(name, Conv4Block(channels, config.width, generator, config.pooling))
            channels, side = config.width, (side + 1) // 2
        self.feature_count = config.width * side * side

    def forward(self, images: Tensor) -> Tensor:
        """See `Net.forward`."""
        for name in self.stage_names:
            images = self.run_stage(name, images)
        return images.flatten(1)
