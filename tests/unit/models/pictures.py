"""Valid and invalid images for tests."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, format=file_format, **options)
    return target.getvalue()


def scene(width: int = 40, height: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    """Return a colour image without symmetry: uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def planes(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width: int, height: int, rows: bytes = b"") -> bytes:
    """Return a grey PNG whose header declares a size, followed by `rows`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_in_tiles(width: int, length: int) -> bytes:
    """Return a grey TIFF of 16 x 16 pixels whose header declares tiles of another size."""
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: width, 323: length, 324: 8, 325: 256}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + bytes(256)
