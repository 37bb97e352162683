"""The four-block net of few-shot learning on Omniglot: Reptile appendix A after Finn et al. 2017 (strided variant)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.nets.net import ConvNorm, Net
from models.nets.norm import Pass
from models.recipe import NetSpec

BLOCKS = ("block1", "block2", "block3", "block4")


class Conv4(Net):
    """Four blocks of 3 x 3 convolution with stride 2, batch normalisation and ReLU; the last map is the feature vector.

    With 28 x 28 images the maps are 14, 7, 4 and 2 pixels wide: 2 * 2 * 64 = 256 features.
    """

    def __init__(self, spec: NetSpec, generator: torch.Generator) -> None:
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
            images = torch.relu(layers.conv(name, images, stride=2))
        batch = images.shape[0]
        by_task = images.reshape(batch, layers.tasks, -1)  # channels of a task, then pixels
        return by_task.transpose(0, 1)  # (tasks, batch, feature_count)
