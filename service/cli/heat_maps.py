"""Draws what `anole predict --explain` returns: a heat map over the picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from service.cli.files import numbered, save_new
from service.client import PredictResponse
from service.client.files import read_file
from service.http.schemas.resources import Explanation

_SIDE: Final = 512
_COLOUR: Final = (255, 32, 0)
_STRENGTH: Final = 0.7
"""How much of a pixel is coloured where the map is 1."""


def write_heat_maps(folder: Path, images: Sequence[Path], predicted: PredictResponse) -> list[Path]:
    """Write a PNG for each image, such as `7-explained.png` for `7.jpg`, and return their paths.

    No file is overwritten: if the name is taken, the next is `7-explained-2.png`.

    Raises:
        InvalidInput: an image cannot be read, or a map cannot be written.
        ImageRejected: an image cannot be decoded.
    """
    written: list[Path] = []
    for image, prediction in zip(images, predicted.predictions, strict=True):
        if prediction.explanation is not None:
            content = heat_map(read_file(image), prediction.explanation)
            paths = (folder / name for name in numbered(image.stem, "-explained", ".png"))
            written.append(save_new(paths, content))
    return written


def heat_map(content: bytes, explanation: Explanation) -> bytes:
    """Return the picture, as the network gets it, with the map over it, as a PNG.

    Raises:
        ImageRejected: the image cannot be decoded.
    """
    from PIL import Image

    from models.images.decoding import decode_pixels

    pixels = decode_pixels(content).pixels
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).convert("RGB")
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    cells = bytes(round(255 * _STRENGTH * value) for row in explanation.values for value in row)
    heat = Image.frombytes("L", (explanation.columns, explanation.rows), cells)
    mask = heat.resize(size, Image.Resampling.BICUBIC)
    picture = Image.composite(Image.new("RGB", size, _COLOUR), picture.resize(size, Image.Resampling.BICUBIC), mask)
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    return encoded.getvalue()
