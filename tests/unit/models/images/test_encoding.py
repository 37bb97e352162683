"""Canonical images as PNG files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from models.images.encoding import encode_png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_has_every_pixel_of_the_image(channels: int, mode: str) -> None:
    image = torch.randint(0, 256, (channels, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    picture = Image.open(io.BytesIO(encode_png(image)))
    assert (picture.format, picture.mode, picture.size) == ("PNG", mode, (30, 20))
    pixels = np.asarray(picture).reshape(20, 30, channels).transpose(2, 0, 1)
    assert np.array_equal(pixels, image.numpy())


@pytest.mark.parametrize(("max_side", "size"), [(40, (40, 20)), (80, (80, 40)), (512, (80, 40))])
def test_a_thumbnail_keeps_the_shape_and_is_never_larger_than_the_image(max_side: int, size: tuple[int, int]) -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    assert Image.open(io.BytesIO(encode_png(image, max_side))).size == size
