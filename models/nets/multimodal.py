"""A net for two modalities: an image and a vector, such as a note, pen strokes or sensor readings.

Each modality has an encoder. The fused features are the two embeddings side by side, each of length 1 so that neither
drowns the other, and each multiplied by the flag that says whether the modality is present. A missing modality is then
a block of zeros. Two more features are 1 where a modality is missing: with them the head takes back the share of its
bias that belongs to this modality, so that prototypes and queries compare by what is there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import LrMultipliers, NetConfig, Second
from models.modalities.rows import FLAGS, Present
from models.nets import heads
from models.nets.base import Net
from models.nets.normalisation import ConvNorm, Standardise
from models.weights import Weights

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
        generator: draws the weights.
        second: what the vectors are, see `NetConfig`. Readings of any unit are first brought to mean 0 and variance 1
            over the support. For text the layers add to the vector, at first nothing: two words that no training task
            had differ in their n-grams, but hardly in what the layers make of them.

    Attributes:
        feature_count: features per vector.
    """

    def __init__(self, size: int, generator: torch.Generator, second: Second) -> None:
        super().__init__()
        self.feature_count = size if second == "text" else _FEATURES
        self.units = Standardise() if second == "vector" else nn.Identity()
        self.layer1 = ConvNorm(size, _HIDDEN, 1, generator)
        self.layer2 = ConvNorm(_HIDDEN, self.feature_count, 1, generator)
        self._adds = second == "text"
        if self._adds:
            nn.init.zeros_(self.layer2.scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, size) -> (batch, features); side by side, (batch, tasks * size) -> (batch, tasks * features)."""
        pixels = self.units(vectors)[..., None, None]
        features: Tensor = self.layer2(torch.relu_(self.layer1(pixels))).flatten(1)
        return features + self.feature_count**0.5 * vectors if self._adds else features


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
        self.second = VectorEncoder(config.second_size, generator, config.second)
        self.feature_count = image.feature_count + self.second.feature_count + FLAGS
        self._sections = [config.image.channels * config.image.side**2, config.second_size, FLAGS]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See `Net.input_shape`: of a row."""
        return (sum(self._sections),)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, row) -> (batch, feature_count); side by side, (batch, tasks * row) -> (batch, tasks * features)."""
        rows = images.view(images.shape[0], -1, *self.input_shape)  # (batch, tasks, row)
        pixels, vectors, present = torch.split(rows, self._sections, dim=-1)
        side = self.config.image.side
        self.image.grad_checkpointing = self.grad_checkpointing
        embedded = self.image(pixels.reshape(rows.shape[0], -1, side, side)), self.second(vectors.flatten(1))
        parts = [part.view(*rows.shape[:2], -1) for part in embedded]  # (batch, tasks, features) each
        fused = [
            F.normalize(part, dim=-1) * flag for part, flag in zip(parts, torch.split(present, 1, dim=-1), strict=True)
        ]
        return torch.cat([*fused, 1 - present], dim=-1).flatten(1)

    def for_missing(self, head: Weights, scale: float, gain: Tensor) -> dict[str, Tensor]:
        """Return a prototype head that leaves out a missing modality as a whole.

        The score of a class is, for each modality, 2 scale f.p - scale |p|^2. Zeros as features leave out the first
        part; the weights of the missing flags leave out the second.

        Args:
            head: from `heads.prototype_head`, for features multiplied by `gain`.
            scale: of the prototype head.
            gain: (tasks, 1, 1).
        """
        sizes = [self.image.feature_count, self.second.feature_count, FLAGS]
        *blocks, _ = torch.split(head[heads.WEIGHT], sizes, dim=-1)
        squares = [block.square().sum(-1, keepdim=True) / (4 * scale * gain) for block in blocks]
        return {**head, heads.WEIGHT: torch.cat([*blocks, *squares], dim=-1)}
