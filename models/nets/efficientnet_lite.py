"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946; the Lite variant drops squeeze-and-excite and uses ReLU6).

The layers follow the reference implementation in tensorflow/tpu: "same" padding as TensorFlow computes it, and batch
normalisation with epsilon 1e-3. `benchmarks/convert_efficientnet_lite0.py` converts the published weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPSILON = 1e-3


class _Stage(NamedTuple):
    """Blocks of one width: kernel side, stride of the first block, expansion, channels, number of blocks."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int


_STEM_CHANNELS = 32
_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
    _Stage(5, 2, 6, 192, 4),
    _Stage(3, 1, 6, 320, 1),
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier.

    Attributes:
        stem: first convolution, with stride 2.
        blocks: 16 inverted residual blocks (Sandler et al. 2018, arXiv:1801.04381).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_norm(3, _STEM_CHANNELS, 3, stride=2)
        blocks, channels = [], _STEM_CHANNELS
        for stage in _STAGES:
            for index in range(stage.blocks):
                blocks.append(InvertedResidual(channels, stage, stage.stride if index == 0 else 1))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the maps of the last block.

        Args:
            images: float32 (batch, 3, height, width), (value - 127) / 128 of 8-bit RGB.

        Returns:
            (batch, 320, height / 32, width / 32), rounded up.
        """
        maps: Tensor = self.blocks(F.relu6(self.stem(images)))
        return maps


class InvertedResidual(nn.Module):
    """Expansion by a 1 x 1 convolution, a depthwise convolution, and projection by a 1 x 1 convolution."""

    def __init__(self, channels_in: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        width = channels_in * stage.expansion
        self.expand = _conv_norm(channels_in, width, 1) if stage.expansion != 1 else None
        self.depthwise = _conv_norm(width, width, stage.kernel, stride=stride, groups=width)
        self.project = _conv_norm(width, stage.channels, 1)
        self.residual = stride == 1 and channels_in == stage.channels

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, height, width) -> maps of the stage's width."""
        hidden = maps if self.expand is None else F.relu6(self.expand(maps))
        projected: Tensor = self.project(F.relu6(self.depthwise(hidden)))
        return maps + projected if self.residual else projected


class SamePaddedConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME" does: at stride 2, more at the bottom and the right."""

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, channels, height / stride, width / stride), rounded up."""
        side, stride = self.kernel_size[0], self.stride[0]
        above, below = _same_padding(images.shape[-2], side, stride)
        left, right = _same_padding(images.shape[-1], side, stride)
        if (above, left) == (below, right) and above == left:
            return F.conv2d(images, self.weight, self.bias, stride, above, groups=self.groups)
        padded = F.pad(images, [left, right, above, below])
        return F.conv2d(padded, self.weight, self.bias, stride, groups=self.groups)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _conv_norm(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        SamePaddedConv(channels_in, channels_out, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPSILON),
    )


def efficientnet_lite0() -> EfficientNetLite0:
    """Build the net with random weights; a checkpoint holds the trained ones."""
    return EfficientNetLite0()
