"""Image preprocessing for training, serving and export.

``decode`` turns a file into a canonical uint8 image, which is what the store keeps of a sample. ``fit_to_side`` resizes
a canonical image to a net's input size, and ``normalise`` converts it to float. ``prepare`` does both. Each image is
processed independently of others, so a stored sample always gives the same input.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from models.errors import ImageCorrupt, InvalidConfig
from models.images.decoding import DEFAULT_LIMITS, DecodeLimits, decode_pixels

__all__ = [
    "DEFAULT_LIMITS",
    "PREPROCESSING_VERSION",
    "Contrast",
    "DecodeLimits",
    "ImageConfig",
    "decode",
    "fit_to_side",
    "normalise",
    "prepare",
    "prepare_batch",
    "prepare_by_shape",
]

PREPROCESSING_VERSION = 1

Contrast = Literal["none", "local", "regional", "imagenet", "torchvision"]
"""How the values of an image are scaled; see `ImageConfig`."""

_STATISTICS_OF_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each channel, as torchvision and timm use them."""

_REC601_LUMA = (0.299, 0.587, 0.114)
_CONTRAST_LIMIT = 5.0
_MAX_SIDE = 256
_SHAPE_UNIT = 32
"""Sides of images that keep their aspect ratio are multiples of it, as is the stride of usual backbones."""
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
        side: height and width in pixels, 16 to 256.
        contrast: "none" keeps values in [0, 1]. "local" subtracts a Gaussian local mean and divides by the local
            deviation (subtractive and divisive normalisation, Jarrett et al. 2009, section 2), clipped to [-5, 5].
            "regional" does the same over a wider neighbourhood and preserves more contrast between marks. "imagenet"
            gives (value - 127) / 128 of the 8-bit values, as the published EfficientNet-Lite was trained. "torchvision"
            scales to [0, 1], subtracts ImageNet's mean and divides by its deviation, channel by channel, as most
            published nets were trained; in colour only.
        fit: "stretch" makes every image a square of `side`. "area" keeps about the aspect ratio: the image gets the one
            of `shapes` that is most like its own.
    """

    channels: int
    side: int
    contrast: Contrast = "none"
    fit: Literal["stretch", "area"] = "stretch"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidConfig(f"ImageConfig.channels is {self.channels!r}; allowed: 1 (grey) or 3 (colour)")
        if not 16 <= self.side <= _MAX_SIDE:
            raise InvalidConfig(f"ImageConfig.side is {self.side!r}; allowed: integers from 16 to {_MAX_SIDE}")
        if self.contrast not in get_args(Contrast):
            allowed = ", ".join(get_args(Contrast))
            raise InvalidConfig(f"ImageConfig.contrast is {self.contrast!r}; allowed: {allowed}")
        if self.contrast == "torchvision" and self.channels != 3:
            raise InvalidConfig("ImageConfig.contrast is 'torchvision' with 1 channel; allowed then: 3 channels")
        if self.fit not in ("stretch", "area"):
            raise InvalidConfig(f"ImageConfig.fit is {self.fit!r}; allowed: stretch, area")
        if self.fit == "area" and self.side % _SHAPE_UNIT:
            raise InvalidConfig(
                f"ImageConfig.side is {self.side} with fit area; allowed then: multiples of {_SHAPE_UNIT}"
            )

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The (height, width) that images can get: the square first, then ever longer ones of about the same area."""
        units = self.side // _SHAPE_UNIT
        if self.fit == "stretch" or units < 3:
            return ((self.side, self.side),)
        wide = [(short, round(units**2 / short)) for short in range(units - 1, 1, -1)]
        sides = [(units, units)] + [shape for pair in wide for shape in (pair, pair[::-1])]
        return tuple((height * _SHAPE_UNIT, width * _SHAPE_UNIT) for height, width in sides)

    def shape_for(self, height: int, width: int) -> tuple[int, int]:
        """The shape that an image of this height and width gets: the one whose aspect ratio is nearest to its own."""
        aspect = math.log(width / height)
        return min(self.shapes, key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON data, without `fit` at its default: it was added later, and digests must not change."""
        data = asdict(self)
        return data if self.fit != "stretch" else {name: value for name, value in data.items() if name != "fit"}


def decode(content: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Tensor:
    """Decode one image file to its canonical image; see ``models.images.decoding.decode_pixels``.

    Returns:
        uint8 (1 or 3, height, width), upright, with at most ``CANONICAL_PIXELS`` pixels.

    Raises:
        ImageRejected: one of its subclasses.
    """
    return torch.from_numpy(decode_pixels(content, limits).pixels)


def fit_to_side(image: Tensor, config: ImageConfig) -> Tensor:
    """Convert a canonical image to the config's channels and resize it with antialiasing.

    Args:
        image: uint8 (1 or 3, height, width).
        config: target channels and side.

    Returns:
        uint8 (channels, height, width), one of the config's shapes: (side, side) for "stretch".
    """
    return _fit(image, config)[0].to(torch.uint8)


def _fit(image: Tensor, config: ImageConfig) -> Tensor:
    """What `fit_to_side` returns, as float32 (1, channels, height, width)."""
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ImageCorrupt(
            f"the image has type {image.dtype} and shape {tuple(image.shape)}; "
            "expected uint8 (1 or 3, height, width): decode it first"
        )
    return _fit_batch(image[None], config)


def _fit_batch(images: Tensor, config: ImageConfig) -> Tensor:
    """uint8 (count, 1 or 3, height, width) -> (count, channels, height, width) of the config's nearest shape.

    The values are whole numbers from 0 to 255. They are float32, because `_scale` needs float32 and conversions take
    time.
    """
    size = config.shape_for(*images.shape[2:])
    values = images.to(torch.float32)
    if config.channels == 1 and images.shape[1] == 3:
        red, green, blue = values.unbind(1)
        values = (_REC601_LUMA[0] * red + _REC601_LUMA[1] * green + _REC601_LUMA[2] * blue)[:, None]
    if values.shape[2:] != size:
        mode = "bilinear" if config.fit == "stretch" else "bicubic"
        values = torch.nn.functional.interpolate(values, size, mode=mode, align_corners=False, antialias=True)
    return values.round_().clamp_(0, 255).expand(-1, config.channels, -1, -1).contiguous()


def normalise(images: Tensor, config: ImageConfig) -> Tensor:
    """Convert resized uint8 images to float input, on their device.

    In a batch, sums may run in another order than for a single image, so values agree with ``prepare`` to about 1e-6.

    Args:
        images: uint8 (count, channels, height, width), from ``fit_to_side``.
        config: the config that they were resized for.

    Returns:
        float32 of the same shape, in [0, 1] for contrast "none", in [-1, 1] for "imagenet", in [-5, 5] for "local" and
        "regional", and in [-2.2, 2.7] for "torchvision".
    """
    sized = images.shape[1:2] == (config.channels,) and tuple(images.shape[2:]) in config.shapes
    if images.dtype != torch.uint8 or not sized:
        raise ImageCorrupt(
            f"the images have type {images.dtype} and shape {tuple(images.shape)}; expected uint8 (count, "
            f"{config.channels}, {config.side}, {config.side}): use fit_to_side first"
        )
    return _scale(images.to(torch.float32), config)


def _scale(values: Tensor, config: ImageConfig) -> Tensor:
    """What `normalise` returns; `values` are whole numbers from 0 to 255 in float32, and may be overwritten."""
    if config.contrast == "imagenet":
        return values.sub_(127.0).mul_(1 / 128)
    values = values.div_(255.0)
    if config.contrast == "torchvision":
        mean, deviation = (values.new_tensor(numbers)[:, None, None] for numbers in _STATISTICS_OF_IMAGENET)
        return (values - mean) / deviation
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
    return torch.cat([_scale(_fit(image, config), config) for image in images])


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
                prepared[batch] = _scale(fitted, config)
    return prepared


def prepare_by_shape(images: Sequence[Tensor], config: ImageConfig) -> Iterator[tuple[list[int], Tensor]]:
    """Prepare images in batches of one shape each.

    Args:
        images: canonical images, uint8 (1 or 3, height, width) each.
        config: input format of the net.

    Yields:
        The indices of at most eight images, and float32 (count, channels, height, width) as ``prepare`` gives them.
    """
    by_shape: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_shape[config.shape_for(*image.shape[1:])].append(index)
    for indices in by_shape.values():
        for start in range(0, len(indices), _BATCH_SIZE):
            batch = indices[start : start + _BATCH_SIZE]
            yield batch, _scale(torch.cat([_fit(images[index], config) for index in batch]), config)


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
