"""Scales samples of up to 16 bits to 8 bits by their bit depth.

Cameras deliver 10, 12 or 14 bits, and most programs save them unscaled in files of 16 bits per sample: full scale is
then 1023, 4095 or 16383 instead of 65535. A single image cannot always tell: values below 4096 are a 12-bit image or a
dark 16-bit image. So the depth is taken from the first of these that applies:

1. The file declares it. If its values exceed that depth, they are scaled to 16 bits, as the PNG specification asks.
2. The caller knows it from the other images of the same client; see ``service.runtime.decoder.DecodedImage``.
3. It is the smallest of 8, 10, 12, 14 and 16 bits that holds the values of the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FILE_BITS: Final = 16
"""Bits per sample in files, of which an image may use fewer."""

_ROWS: Final = 64
"""Rows that are scaled at once; numpy takes eight bytes of memory for each of their values."""

DEPTHS: Final = (8, 10, 12, 14, FILE_BITS)
"""The bit depths of cameras."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many bits the samples of an image use, and whether its file says so."""

    bits: int
    declared: bool


def choose_depth(largest: int, declared: int | None) -> Depth:
    """Choose the bit depth of an image from its largest value, at most 65535, and the depth that its file declares."""
    if declared is not None:
        return Depth(declared if largest < 2**declared else FILE_BITS, declared=True)
    return Depth(next(bits for bits in DEPTHS if largest < 2**bits), declared=False)


def common_depth(depths: Iterable[int | None]) -> int | None:
    """Return the depth that holds several images whose files did not declare theirs; None if all did."""
    return max((bits for bits in depths if bits is not None), default=None)


def to_8_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Scale integers from 0 to 2**bits - 1, (height, width), to 0..255, rounded."""
    table = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
    scaled = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        scaled[start : start + _ROWS] = table[values[start : start + _ROWS]]
    return scaled
