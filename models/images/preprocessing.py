"""Image preprocessing for training, serving and export.

``decode`` turns a file into a canonical uint8 image, which is what the store keeps of a sample. ``fit_to_side`` resizes
a canonical image to a net's input size, and ``normalise`` converts it to float. ``prepare`` does both. Each image is
processed independently of others, so a stored sample always gives the same input.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.errors import ImageCorrupt, InvalidConfig
from models.images.decoding import CANONICAL_SIDE, DEFAULT_LIMITS, DecodeLimits, decode_pixels

__all__ = [
    "CANONICAL_SIDE",
    "DEFAULT_LIMITS",
    "PREPROCESSING_VERSION",
    "DecodeLimits",
    "ImageConfig",
    "decode",
    "fit_to_side",
    "normalise",
    "prepare",
    "prepare_batch",
]

PREPROCESSING_VERSION = 1

_REC601_LUMA = (0.299, 0.587, 0.114)
_CONTRAST_LIMIT = 5.0
_BATCH_SIZE = 8
"""Images prepared at once; larger batches exceed the processor's cache."""


@dataclass(frozen=True)
class _ContrastParameters:
    """Parameters of contrast normalisation.

    Larger floors preserve more of the contrast between weak and strong marks.

    Attributes:
        sigma_of_side: sigma of the Gaussian neighbourhood, as a share of the side.
        floor: added to the local deviation, in squares; full scale is 1.
        floor_of_image: share of the image's deviation added to the local deviation, in squares.
    """

    sigma_of_side: float
    floor: float
    floor_of_image: float


_CONTRASTS = {"local": _ContrastParameters(1 / 8, 0.005, 0.2), "regional": _ContrastParameters(0.3, 0.03, 1.0)}


@dataclass(frozen=True)
class ImageConfig:
    """Input format of a net.

    Attributes:
        channels: 1 (grey) or 3 (colour).
        side: height and width in pixels, 16 to 256. Images are stretched to a square.
        contrast: "none" keeps values in [0, 1]. "local" subtracts a Gaussian local mean and divides by the local
            deviation (subtractive and divisive normalisation, Jarrett et al. 2009, section 2), clipped to [-5, 5].
            "regional" does the same over a wider neighbourhood and preserves more contrast between marks.
    """

    channels: int
    side: int
    contrast: Literal["none", "local", "regional"] = "none"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidConfig(f"ImageConfig.channels is {self.channels!r}; allowed: 1 (grey) or 3 (colour)")
        if not 16 <= self.side <= CANONICAL_SIDE:
            raise InvalidConfig(f"ImageConfig.side is {self.side!r}; allowed: integers from 16 to {CANONICAL_SIDE}")
        if self.contrast != "none" and self.contrast not in _CONTRASTS:
            raise InvalidConfig(f"ImageConfig.contrast is {self.contrast!r}; allowed: none, local, regional")


def decode(content: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Tensor:
    """Decode one image file to its canonical image; see ``models.images.decoding.decode_pixels``.

    Returns:
        uint8 (1 or 3, height, width), upright. The longest side is at most ``CANONICAL_SIDE``; smaller images keep
        their size.

    Raises:
        ImageRejected: one of its subclasses.
    """
    return torch.from_numpy(decode_pixels(content, limits))


def fit_to_side(image: Tensor, config: ImageConfig) -> Tensor:
    """Convert a canonical image to the config's channels and resize it with antialiasing.

    Args:
        image: uint8 (1 or 3, height, width).
        config: target channels and side.

    Returns:
        uint8 (channels, side, side).
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ImageCorrupt(
            f"the image has type {image.dtype} and shape {tuple(image.shape)}; "
            "expected uint8 (1 or 3, height, width): decode it first"
        )
    return _fit_batch(image[None], config)[0]


def _fit_batch(images: Tensor, config: ImageConfig) -> Tensor:
    """uint8 (count, 1 or 3, height, width) -> (count, channels, side, side)."""
    size = (config.side, config.side)
    if images.shape[1] == config.channels and images.shape[2:] == size:
        return images
    values = images.to(torch.float32)
    if config.channels == 1 and images.shape[1] == 3:
        red, green, blue = values.unbind(1)
        values = (_REC601_LUMA[0] * red + _REC601_LUMA[1] * green + _REC601_LUMA[2] * blue)[:, None]
    if values.shape[2:] != size:
        values = torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)
    fitted = values.round().clamp(0, 255).to(torch.uint8)
    return fitted.expand(-1, config.channels, -1, -1).contiguous()  # (count, channels, side, side)


def normalise(images: Tensor, config: ImageConfig) -> Tensor:
    """Convert resized uint8 images to float input, on their device.

    In a batch, sums may run in another order than for a single image, so values agree with ``prepare`` to about 1e-6.

    Args:
        images: uint8 (count, channels, side, side), from ``fit_to_side``.
        config: the config that they were resized for.

    Returns:
        float32 of the same shape, in [0, 1] for contrast "none" and in [-5, 5] otherwise.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != (config.channels, config.side, config.side):
        raise ImageCorrupt(
            f"the images have type {images.dtype} and shape {tuple(images.shape)}; expected uint8 (count, "
            f"{config.channels}, {config.side}, {config.side}): use fit_to_side first"
        )
    values = images.to(torch.float32) / 255.0  # (count, channels, side, side)
    return values if config.contrast == "none" else _normalise_contrast(values, _CONTRASTS[config.contrast])


def prepare(images: Sequence[Tensor], config: ImageConfig) -> Tensor:
    """Prepare canonical images as the input of a net, one by one, so that no bit depends on the other images.

    Args:
        images: canonical images, uint8 (1 or 3, height, width) each.
        config: input format of the net.

    Returns:
        float32 (count, channels, side, side).
    """
    if not images:
        return torch.empty(0, config.channels, config.side, config.side)
    return torch.cat([normalise(fit_to_side(image, config)[None], config) for image in images])


def prepare_batch(images: Sequence[Tensor], config: ImageConfig) -> Tensor:
    """Like ``prepare``, but process images of the same size in batches, which takes about half the time.

    Sums may run in another order, so values agree with ``prepare`` to 1e-6.
    """
    prepared = torch.empty(len(images), config.channels, config.side, config.side)
    by_shape: defaultdict[torch.Size, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_shape[image.shape].append(index)
    with torch.no_grad():
        for indices in by_shape.values():
            for start in range(0, len(indices), _BATCH_SIZE):
                batch = indices[start : start + _BATCH_SIZE]
                fitted = _fit_batch(torch.stack([images[index] for index in batch]), config)
                prepared[batch] = normalise(fitted, config)
    return prepared


def _normalise_contrast(values: Tensor, parameters: _ContrastParameters) -> Tensor:
    """Subtract the local mean and divide by the local deviation; flat regions stay near zero."""
    blur = _blur_matrix(values.shape[-1], parameters.sigma_of_side).to(values.device)  # (side, side)
    grey = values.mean(dim=1, keepdim=True)  # (count, 1, side, side)
    centred = values - blur @ grey @ blur.T  # (count, channels, side, side)
    power = centred.square().mean(dim=1, keepdim=True)  # (count, 1, side, side)
    floor = parameters.floor**2 + parameters.floor_of_image**2 * power.mean(dim=(2, 3), keepdim=True)
    deviation = (blur @ power @ blur.T + floor).sqrt()
    return (centred / deviation).clamp(-_CONTRAST_LIMIT, _CONTRAST_LIMIT)


@functools.lru_cache(maxsize=8)
def _blur_matrix(side: int, sigma_of_side: float) -> Tensor:
    """Gaussian blur along one axis with replicated borders, as a matrix: float32 (side, side), rows sum to 1."""
    sigma = side * sigma_of_side
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.to(torch.float64) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    columns = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)  # (side, taps)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    matrix.scatter_add_(1, columns, kernel.expand(side, -1))
    return matrix.to(torch.float32)
