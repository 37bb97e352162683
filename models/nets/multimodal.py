"""A net for two modalities: an image and a vector, such as a note, pen strokes or sensor readings.

Each modality has an encoder. The fused features are the two embeddings side by side, each of length 1 so that neither
drowns the other, and each multiplied by the flag that says whether the modality is present. A missing modality is then
a block of zeros: prototypes and queries compare by what is there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import LrMultipliers, NetConfig
from models.modalities.rows import FLAGS, Present
from models.nets.base import Net
from models.nets.normalisation import ConvNorm, Standardise

IMAGE_PREFIX = "image."
"""Prefix of the image encoder's weights."""

_HIDDEN, _FEATURES = 128, 64


def encoder_multipliers(adapt_modality: Present) -> LrMultipliers:
    """Learning-rate multipliers that adapt the encoders that are named, and keep every bit of the others."""
    named = {"both": ("image", "second")}.get(adapt_modality, (adapt_modality,))
    return tuple((f"{encoder}.*", float(encoder in named)) for encoder in ("image", "second"))


class VectorEncoder(nn.Module):
    """Two linear layers with normalisation, and a ReLU between them.

    They are convolutions of images of one pixel, so that kernels, statistics and folding by task are those of all nets.

    Args:
        size: numbers of a vector.
        standardise: bring each number to mean 0 and variance 1 over the support first, for readings of any unit.
        generator: draws the weights.
    """

    def __init__(self, size: int, generator: torch.Generator, *, standardise: bool) -> None:
        super().__init__()
        self.units = Standardise() if standardise else nn.Identity()
        self.layer1 = ConvNorm(size, _HIDDEN, 1, generator)
        self.layer2 = ConvNorm(_HIDDEN, _FEATURES, 1, generator)

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, size) -> (batch, features); side by side, (batch, tasks * size) -> (batch, tasks * features)."""
        pixels = self.units(vectors)[..., None, None]
        features: Tensor = self.layer2(torch.relu_(self.layer1(pixels)))
        return features.flatten(1)


class MultimodalNet(Net):
    """An image encoder of any kind, a `VectorEncoder`, and their embeddings side by side.

    Its inputs are rows (`models.modalities.rows`), not images.

    Attributes:
        image: the encoder of images.
        second: the encoder of the second modality.
    """

    def __init__(self, config: NetConfig, image: Net, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.image = image
        self.second = VectorEncoder(config.second_size, generator, standardise=config.second == "vector")
        self.feature_count = image.feature_count + _FEATURES
        self._sections = [config.image.channels * config.image.side**2, config.second_size, FLAGS]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See `Net.input_shape`: of a row."""
        return (sum(self._sections),)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, row) -> (batch, feature_count); side by side, (batch, tasks * row) -> (batch, tasks * features)."""
        rows = images.view(len(images), -1, *self.input_shape)  # (batch, tasks, row)
        pixels, vectors, present = torch.split(rows, self._sections, dim=-1)
        side = self.config.image.side
        self.image.grad_checkpointing = self.grad_checkpointing
        embedded = self.image(pixels.reshape(len(rows), -1, side, side)), self.second(vectors.flatten(1))
        parts = [part.view(*rows.shape[:2], -1) for part in embedded]  # (batch, tasks, features) each
        fused = [
            F.normalize(part, dim=-1) * flag for part, flag in zip(parts, torch.split(present, 1, dim=-1), strict=True)
        ]
        return torch.cat(fused, dim=-1).flatten(1)
