"""What every net here is: a set of named start weights, and features of grouped images under a pass.

*Grouped* layout: (batch, tasks * channels, height, width), the tasks' channels side by side. A convolution with as many
groups as tasks then runs every task with its own weights in one call, and a batch normalisation over grouped channels
is one a task, so nothing here loops over tasks. A net refuses to know how it is normalised: that is the pass's part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.config import NetConfig
from models.nets.normalisation import Pass
from models.weights import Weights


class ConvNorm(nn.Module):
    """The weights of one convolution (no bias: the normalisation has one) and its normalisation's scale and shift.

    Attributes:
        weight: (channels_out, channels_in, kernel, kernel).
        scale: (channels_out,), starts at 1.
        shift: (channels_out,), starts at 0.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        deviation = (2.0 / (channels_out * kernel * kernel)) ** 0.5
        drawn = torch.randn(channels_out, channels_in, kernel, kernel, generator=generator)
        self.weight = nn.Parameter(drawn * deviation)
        self.scale = nn.Parameter(torch.ones(channels_out))
        self.shift = nn.Parameter(torch.zeros(channels_out))


class Net(nn.Module, ABC):
    """A net; its parameters are the start of every inner loop.

    Attributes:
        spec: what it was built from.
        feature_count: numbers an image is turned into.
    """

    spec: NetConfig
    feature_count: int

    @abstractmethod
    def features(self, layers: Pass, images: Tensor) -> Tensor:
        """Turn grouped images into features under the weights and the normalisation of `layers`.

        Args:
            layers: weights and statistics of one or more tasks.
            images: float32 (batch, tasks * channels, side, side).

        Returns:
            float32 (tasks, batch, feature_count).
        """

    def start(self) -> dict[str, Tensor]:
        """The net's weights, detached from autograd, in a fixed order."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


def grouped(images: Tensor, *, precise: bool = False) -> Tensor:
    """Bring (tasks, batch, channels, side, side) into the grouped layout.

    Channels lie last in memory, where convolutions are fastest. Told to be `precise`, they lie first: torch's batch
    normalisation on the CPU rounds far less there, because it sums with more digits.
    """
    tasks, batch, channels, height, width = images.shape
    side_by_side = images.transpose(0, 1).reshape(batch, tasks * channels, height, width)
    return side_by_side.clone(memory_format=torch.contiguous_format if precise else torch.channels_last)


def working_copy(stacked: Weights) -> dict[str, Tensor]:
    """Stacked weights in memory of their own, for an optimiser to write to, kernels' channels last.

    Convolutions of images whose channels lie last read such kernels as they are and give gradients in the same layout.
    """
    return {name: _kernels_last(own) if own.ndim == 5 else own.clone() for name, own in stacked.items()}


def _kernels_last(kernels: Tensor) -> Tensor:
    """(tasks, out, in, kernel, kernel), copied so that `in` lies last in memory."""
    return kernels.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format).permute(0, 1, 4, 2, 3)
