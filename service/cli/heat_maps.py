"""Draws what `anole predict --explain` returns: a heat map over the picture."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from service.cli.files import file_name, save
from service.client import PredictResponse
from service.http.schemas.resources import Explanation

_SIDE: Final = 512
_COLOUR: Final = (255, 32, 0)
_STRENGTH: Final = 0.7
"""How much of a pixel is coloured where the map is 1."""


def write_heat_maps(folder: Path, images: Sequence[Path], predicted: PredictResponse) -> list[Path]:
    """Write a PNG for each image, and return their paths.

    Raises:
        InvalidInput: a file cannot be written.
        ImageRejected: an image cannot be decoded.
    """
    names: Counter[str] = Counter()
    written: list[Path] = []
    for image, prediction in zip(images, predicted.predictions, strict=True):
        name = file_name(image.stem)
        names[name] += 1
        path = folder / (f"{name}.png" if names[name] == 1 else f"{name}-{names[name]}.png")
        if prediction.explanation is not None:
            save(path, heat_map(image.read_bytes(), prediction.explanation))
            written.append(path)
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
