"""Encodes canonical images as PNG files."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image
from torch import Tensor

_COMPRESSION: Final = 3
"""Of zlib, 0 to 9. Higher levels take several times as long for a few per cent."""


def encode_png(image: Tensor, max_side: int | None = None) -> bytes:
    """Encode an image as a PNG.

    Args:
        image: uint8 (1 or 3, height, width).
        max_side: shrinks a larger image to this length of its longer side, in pixels; None keeps every pixel.
    """
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().numpy())
    if max_side is not None:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG", compress_level=_COMPRESSION)
    return encoded.getvalue()
