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

import torch
from torch import Tensor

from models.errors import ImageCorrupt
from models.images.decoding import DEFAULT_LIMITS, DecodeLimits, decode_pixels
from models.images.image_config import (
    CONTRAST_LIMIT,
    CONTRASTS,
    PREPROCESSING_VERSION,
    REC601_LUMA,
    STATISTICS_OF_IMAGENET,
    Contrast,
    ContrastParameters,
    ImageConfig,
)

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

_BATCH_SIZE = 8
"""Images prepared at once; larger batches exceed the processor's cache."""


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

    The values are whole numbers from 0 to 255. They are float32, because `scale_values` needs float32 and conversions
    take time.
    """
    return fit_to_size(images.to(torch.float32), config.shape_for(*images.shape[2:]), config)


def fit_to_size(values: Tensor, size: tuple[int, int], config: ImageConfig) -> Tensor:
    """Convert canonical images to the config's channels and resize them with antialiasing.

    Args:
        values: whole numbers from 0 to 255 in float32, (count, 1 or 3, height, width).
        size: height and width, one of the config's shapes.
        config: target channels, and how to resize.

    Returns:
        Whole numbers from 0 to 255 in float32, (count, channels, *size).
    """
    if config.channels == 1 and values.shape[1] == 3:
        red, green, blue = values.unbind(1)
        values = (REC601_LUMA[0] * red + REC601_LUMA[1] * green + REC601_LUMA[2] * blue)[:, None]
    if torch.compiler.is_exporting() or values.shape[2:] != size:  # an exported program does not know the sizes
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
    return scale_values(images.to(torch.float32), config)


def scale_values(values: Tensor, config: ImageConfig) -> Tensor:
    """What `normalise` returns; `values` are whole numbers from 0 to 255 in float32, and may be overwritten."""
    if config.contrast == "imagenet":
        return values.sub_(127.0).mul_(1 / 128)
    values = values.div_(255.0)
    if config.contrast == "torchvision":
        mean, deviation = (values.new_tensor(numbers)[:, None, None] for numbers in STATISTICS_OF_IMAGENET)
        return (values - mean) / deviation
    return values if config.contrast == "none" else _normalise_contrast(values, CONTRASTS[config.contrast])


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
    return torch.cat([scale_values(_fit(image, config), config) for image in images])


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
                prepared[batch] = scale_values(fitted, config)
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
            yield batch, scale_values(torch.cat([_fit(images[index], config) for index in batch]), config)


def _normalise_contrast(values: Tensor, parameters: ContrastParameters) -> Tensor:
    """Subtract the local mean and divide by the local deviation; flat regions stay near zero."""
    blur = blur_matrix(values.shape[-1], parameters.sigma_of_side).to(values.device)  # (side, side)
    grey = values.mean(dim=1, keepdim=True)  # (count, 1, side, side)
    centred = values - blur @ grey @ blur.T  # (count, channels, side, side)
    power = centred.square().mean(dim=1, keepdim=True)  # (count, 1, side, side)
    floor = parameters.floor**2 + parameters.floor_of_image**2 * power.mean(dim=(2, 3), keepdim=True)
    deviation = (blur @ power @ blur.T + floor).sqrt()
    return (centred / deviation).clamp(-CONTRAST_LIMIT, CONTRAST_LIMIT)


@functools.lru_cache(maxsize=8)
def blur_matrix(side: int, sigma_of_side: float) -> Tensor:
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
