"""Image preprocessing in numpy and Pillow, for devices without torch.

It computes what ``models.images.preprocessing`` computes in torch. Pillow resizes as torch does with antialiasing, up
to the rounding of sums: a pixel may differ by one level of 255.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images.image_config import (
    CONTRAST_LIMIT,
    CONTRASTS,
    REC601_LUMA,
    STATISTICS_OF_IMAGENET,
    ContrastParameters,
    ImageConfig,
)

Floats = NDArray[np.float32]


def prepare_array(image: NDArray[np.uint8], config: ImageConfig) -> Floats:
    """Prepare a canonical image as the input of a net.

    Args:
        image: uint8 (1 or 3, height, width).
        config: input format of the net.

    Returns:
        float32 (1, channels, height, width).
    """
    values = image.astype(np.float32)
    if config.channels == 1 and len(values) == 3:
        values = np.tensordot(np.array(REC601_LUMA, np.float32), values, 1)[None]
    height, width = config.shape_for(*values.shape[1:])
    if values.shape[1:] != (height, width):
        method = Image.Resampling.BILINEAR if config.fit == "stretch" else Image.Resampling.BICUBIC
        values = np.stack([np.asarray(Image.fromarray(band).resize((width, height), method)) for band in values])
    values = np.clip(np.rint(values), 0, 255)
    return _scale(np.broadcast_to(values, (config.channels, height, width)), config)[None]


def _scale(values: Floats, config: ImageConfig) -> Floats:
    """Scale whole numbers from 0 to 255, float32 (channels, height, width), as the config's contrast says."""
    if config.contrast == "imagenet":
        return (values - np.float32(127)) * np.float32(1 / 128)
    values = values / np.float32(255)
    if config.contrast == "torchvision":
        mean, deviation = (np.array(numbers, np.float32)[:, None, None] for numbers in STATISTICS_OF_IMAGENET)
        scaled: Floats = (values - mean) / deviation
        return scaled
    return values if config.contrast == "none" else _normalise_contrast(values, CONTRASTS[config.contrast])


def _normalise_contrast(values: Floats, parameters: ContrastParameters) -> Floats:
    """Subtract the local mean and divide by the local deviation; flat regions stay near zero."""
    blur = _blur_matrix(values.shape[-1], parameters.sigma_of_side)
    centred = values - blur @ values.mean(0) @ blur.T
    power = np.square(centred).mean(0)  # (side, side)
    floor = np.float32(parameters.floor**2) + np.float32(parameters.floor_of_image**2) * power.mean()
    deviation = np.sqrt(blur @ power @ blur.T + floor)
    normalised: Floats = np.clip(centred / deviation, np.float32(-CONTRAST_LIMIT), np.float32(CONTRAST_LIMIT))
    return normalised


@functools.lru_cache(maxsize=8)
def _blur_matrix(side: int, sigma_of_side: float) -> Floats:
    """Gaussian blur along one axis with replicated borders, as a matrix: float32 (side, side), rows sum to 1."""
    sigma = side * sigma_of_side
    radius = math.ceil(3 * sigma)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((side, side))
    for row in range(side):
        np.add.at(matrix[row], np.clip(row + offsets, 0, side - 1), kernel)
    return matrix.astype(np.float32)
