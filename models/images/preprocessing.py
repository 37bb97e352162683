"""Bytes to tensor: the one preprocessing that training, serving and export share.

``decode`` turns untrusted bytes into a canonical uint8 image (what a store keeps as the sample), ``fit_to_side`` brings
a canonical image to a net's input size, ``normalise`` makes the float input; ``prepare`` is the last two in a row.
Every step looks at one image alone and is a fixed function of it, so a kept sample can be prepared again years later
without a decoder. This module refuses to know where bytes come from, what a class is and which net will see the result.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.errors import ImageCorrupt, ImageRejected, InvalidConfig
from models.images.decoding import CANONICAL_SIDE, DEFAULT_LIMITS, DecodeLimits, decode_pixels

__all__ = [
    "CANONICAL_SIDE",
    "DEFAULT_LIMITS",
    "PREPROCESSING_VERSION",
    "DecodeLimits",
    "ImageConfig",
    "decode",
    "fit_to_side",
    "load",
    "normalise",
    "prepare",
    "prepare_together",
]

PREPROCESSING_VERSION = 1

_REC601_LUMA = (0.299, 0.587, 0.114)
_CONTRAST_LIMIT = 5.0
_SIDE_BY_SIDE = 8
"""Images prepared at once; with more the processor's cache no longer holds them."""


@dataclass(frozen=True)
class _ContrastRule:
    """Gaussian neighbourhood, as a share of the side; what is added to the local deviation: a constant (full scale 1)
    and a share of the whole image's deviation, in squares. The more is added, the more is left of how strong a mark is.
    """

    sigma_of_side: float
    floor: float
    floor_of_image: float


_CONTRASTS = {"local": _ContrastRule(1 / 8, 0.005, 0.2), "regional": _ContrastRule(0.3, 0.03, 1.0)}


@dataclass(frozen=True)
class ImageConfig:
    """What a net wants to see.

    Attributes:
        channels: 1 (grey) or 3 (colour).
        side: height and width in pixels, 16 to 256; images are stretched to the square.
        contrast: "none" leaves values in [0, 1]; "local" subtracts a Gaussian local mean and divides by the local
            deviation (subtractive and divisive normalisation, Jarrett et al. 2009, section 2), within [-5, 5];
            "regional" does so over a wider neighbourhood and more gently, so that strong marks stay stronger.
    """

    channels: int
    side: int
    contrast: Literal["none", "local", "regional"] = "none"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidConfig(f"ImageConfig.channels is {self.channels!r}; 1 (grey) and 3 (colour) are allowed")
        if not 16 <= self.side <= CANONICAL_SIDE:
            raise InvalidConfig(
                f"ImageConfig.side is {self.side!r}; whole numbers from 16 to {CANONICAL_SIDE} are allowed"
            )
        if self.contrast != "none" and self.contrast not in _CONTRASTS:
            raise InvalidConfig(f"ImageConfig.contrast is {self.contrast!r}; none, local and regional are allowed")


def decode(content: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Tensor:
    """Turns the bytes of one image file into its canonical image; see ``models.images.decoding.decode_pixels``.

    Returns:
        uint8 (1 or 3, height, width), upright, longest side at most ``CANONICAL_SIDE`` (smaller images keep theirs).

    Raises:
        ImageRejected: one of its subclasses says why.
    """
    return torch.from_numpy(decode_pixels(content, limits))


def load(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> Tensor:
    """Reads one image file: uint8 (1 or 3, height, width), as ``decode``; errors name the path."""
    try:
        return decode(path.read_bytes(), limits)
    except ImageRejected as error:
        raise type(error)(f"{path}: {error}") from error


def fit_to_side(image: Tensor, spec: ImageConfig) -> Tensor:
    """Converts a canonical image to the spec's channels and stretches it to its side with antialiasing.

    Args:
        image: uint8 (1 or 3, height, width).
        spec: channels and side to reach.

    Returns:
        uint8 (channels, side, side).
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ImageCorrupt(
            f"an image of type {image.dtype} and shape {tuple(image.shape)} came; "
            "uint8 (1 or 3, height, width) is allowed: decode it first"
        )
    return _fit_together(image[None], spec)[0]


def _fit_together(images: Tensor, spec: ImageConfig) -> Tensor:
    """uint8 (count, 1 or 3, height, width) -> (count, channels, side, side)."""
    size = (spec.side, spec.side)
    if images.shape[1] == spec.channels and images.shape[2:] == size:
        return images
    values = images.to(torch.float32)
    if spec.channels == 1 and images.shape[1] == 3:
        red, green, blue = values.unbind(1)
        values = (_REC601_LUMA[0] * red + _REC601_LUMA[1] * green + _REC601_LUMA[2] * blue)[:, None]
    if values.shape[2:] != size:
        values = torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)
    fitted = values.round().clamp(0, 255).to(torch.uint8)
    return fitted.expand(-1, spec.channels, -1, -1).contiguous()  # (count, channels, side, side)


def normalise(images: Tensor, spec: ImageConfig) -> Tensor:
    """The second half of ``prepare``: uint8 at the spec's size to the net's float input, on the images' own device.

    Each image is computed from itself alone. Over a batch the sums may run in another order than for one image, so
    values agree with ``prepare`` to about 1e-6, not to the last bit.

    Args:
        images: uint8 (count, channels, side, side).
        spec: what the images were fitted to, and the contrast to apply.

    Returns:
        float32 of the same shape; in [0, 1] for contrast "none", within [-5, 5] for the others.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != (spec.channels, spec.side, spec.side):
        raise ImageCorrupt(
            f"images of type {images.dtype} and shape {tuple(images.shape)} came; uint8 (count, {spec.channels}, "
            f"{spec.side}, {spec.side}) is allowed: use fit_to_side first"
        )
    values = images.to(torch.float32) / 255.0  # (count, channels, side, side)
    return values if spec.contrast == "none" else _even_contrast(values, _CONTRASTS[spec.contrast])


def prepare(images: Sequence[Tensor], spec: ImageConfig) -> Tensor:
    """Canonical images to a net's input; every image goes through alone, so its bits never depend on its neighbours.

    Args:
        images: canonical images, uint8 (1 or 3, height, width) each.
        spec: what the net wants to see.

    Returns:
        float32 (count, channels, side, side).
    """
    if not images:
        return torch.empty(0, spec.channels, spec.side, spec.side)
    return torch.cat([normalise(fit_to_side(image, spec)[None], spec) for image in images])


def prepare_together(images: Sequence[Tensor], spec: ImageConfig) -> Tensor:
    """As ``prepare``, but images of one size go through side by side, which takes about half the time an image.

    Each is still computed from itself alone; sums may run in another order, so values agree with ``prepare`` to 1e-6.
    """
    prepared = torch.empty(len(images), spec.channels, spec.side, spec.side)
    alike: defaultdict[torch.Size, list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        alike[image.shape].append(place)
    with torch.no_grad():
        for places in alike.values():
            for start in range(0, len(places), _SIDE_BY_SIDE):
                here = places[start : start + _SIDE_BY_SIDE]
                fitted = _fit_together(torch.stack([images[place] for place in here]), spec)
                prepared[here] = normalise(fitted, spec)
    return prepared


def _even_contrast(values: Tensor, rule: _ContrastRule) -> Tensor:
    """Subtracts the local mean over the channels, divides by the local deviation; flat regions stay near zero."""
    blur = _blur_matrix(values.shape[-1], rule.sigma_of_side).to(values.device)  # (side, side)
    grey = values.mean(dim=1, keepdim=True)  # (count, 1, side, side)
    centred = values - blur @ grey @ blur.T  # (count, channels, side, side)
    power = centred.square().mean(dim=1, keepdim=True)  # (count, 1, side, side)
    floor = rule.floor**2 + rule.floor_of_image**2 * power.mean(dim=(2, 3), keepdim=True)
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
