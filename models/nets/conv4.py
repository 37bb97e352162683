"""The four-block net of few-shot learning, Reptile (arXiv:1803.02999) appendix A after Finn et al. 2017, section 5.2.

Blocks halve their maps by strided convolutions (Omniglot) or by 2 x 2 max pooling after the ReLU (mini-ImageNet; the
published code pools before it normalises, where frozen statistics could not be folded into the convolution).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import NetConfig
from models.nets.base import ConvNorm, Net
from models.nets.normalisation import Pass

BLOCKS = ("block1", "block2", "block3", "block4")


class Conv4(Net):
    """Four blocks of 3 x 3 convolution, batch normalisation and ReLU, each halving; the last map is the feature vector.

    With 28 x 28 images the maps are 14, 7, 4 and 2 pixels wide: 2 * 2 * 64 = 256 features. With 84 x 84 images and 32
    channels they are 42, 21, 11 and 6 wide: 6 * 6 * 32 = 1152. Odd maps are rounded up, with both ways of halving.
    """

    def __init__(self, spec: NetConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        channels, side = spec.image.channels, spec.image.side
        for name in BLOCKS:
            self.add_module(name, ConvNorm(channels, spec.width, 3, generator))
            channels, side = spec.width, (side + 1) // 2
        self.feature_count = spec.width * side * side

    def features(self, layers: Pass, images: Tensor) -> Tensor:
        """See `Net.features`."""
        for name in BLOCKS:
            images = layers.block(partial(self._block, layers, name), images)
        batch = images.shape[0]
        by_task = images.reshape(batch, layers.tasks, -1)  # channels of a task, then pixels
        return by_task.transpose(0, 1)  # (tasks, batch, feature_count)

    def _block(self, layers: Pass, name: str, images: Tensor) -> Tensor:
        if self.spec.pooling == "stride":
            return torch.relu_(layers.conv(name, images, stride=2))
        return F.max_pool2d(torch.relu_(layers.conv(name, images, stride=1)), 2, ceil_mode=True)
