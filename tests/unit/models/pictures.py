"""Valid and invalid images for tests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

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


PASSES_OF_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row and their steps in each pass of an interlaced PNG."""


def png_of(samples: NDArray[np.uint16], *chunks: bytes, interlaced: bool = False) -> bytes:
    """Return a PNG of 16 bits per sample, (height, width[, 2 to 4 channels]), with further chunks before its pixels."""
    height, width = samples.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2] if samples.ndim == 3 else 1]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, interlaced)
    passes = PASSES_OF_ADAM7 if interlaced else ((0, 0, 1, 1),)
    lines = [line for left, top, right, down in passes for line in samples[top::down, left::right]]
    rows = b"".join(b"\0" + line.astype(">u2").tobytes() for line in lines)
    parts = chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@dataclass(frozen=True)
class TiffContent:
    """A page of a TIFF file: its tags, and its pixels in the byte order of the file."""

    tags: dict[int, tuple[int, ...]]
    pixels: bytes


def tiff_page(pixels: NDArray[np.generic], tags: Mapping[int, tuple[int, ...]] | None = None) -> TiffContent:
    """Return an uncompressed page of a TIFF file: (height, width) or (height, width, channels), with further tags."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[pixels.dtype.kind]
    described = {
        256: (width,),
        257: (height,),
        258: (8 * pixels.dtype.itemsize,) * channels,
        259: (1,),
        262: (2 if channels > 1 else 1,),
        277: (channels,),
        278: (height,),
        339: (kind,) * channels,
    }
    return TiffContent({**described, **(tags or {})}, pixels.tobytes())


def tiff_of(*pages: TiffContent, order: str = "<") -> bytes:
    """Return a TIFF file of pages whose tags are all numbers. The pixels must have the byte order of the file."""
    content = bytearray(b"II*\0" if order == "<" else b"MM\0*") + bytes(4)
    link = 4
    for page in pages:
        at = len(content)
        content += page.pixels + bytes(len(page.pixels) % 2)
        tags = page.tags | {273: (at,), 279: (len(page.pixels),)}
        values = {tag: struct.pack(f"{order}{len(numbers)}L", *numbers) for tag, numbers in sorted(tags.items())}
        outside = {}
        for tag, packed in values.items():
            if len(packed) > 4:
                outside[tag] = len(content)
                content += packed
        struct.pack_into(order + "L", content, link, len(content))
        content += struct.pack(order + "H", len(tags))
        for tag, packed in values.items():
            value = struct.pack(order + "L", outside[tag]) if tag in outside else packed
            content += struct.pack(order + "HHL", tag, 4, len(packed) // 4) + value
        link = len(content)
        content += bytes(4)
    return bytes(content)
