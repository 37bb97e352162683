"""Scales samples of up to 16 bits to 8 bits by their bit depth.

Cameras deliver 10, 12 or 14 bits, and most programs save them unscaled in files of 16 bits per sample: full scale is
then 1023, 4095 or 16383 instead of 65535. A single image cannot always tell: values below 4096 are a 12-bit image or a
dark 16-bit image. So the depth is taken from the first of these that applies:

1. The file declares it; see `DeclaredDepth`.
2. The caller knows it from the other images of the same client; see ``service.runtime.decoder.DecodedImage``.
3. It is the smallest of 8, 10, 12, 14 and 16 bits that holds the values of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
class DeclaredDepth:
    """The bit depth that a file with 16 bits per sample declares.

    Attributes:
        bits: the bit depth.
        may_be_scaled: whether samples may have been scaled to 16 bits. The PNG specification asks for it, and many
            programs leave it out. Values beyond the bit depth were scaled, and so were those whose low bits are all
            zero, as the scaled ones of a dark image are.
        may_be_statistic: whether `bits` comes from a largest value that may be that of this image. Then it declares
            nothing if it is exactly that, or if the image exceeds it.
    """

    bits: int
    may_be_scaled: bool = False
    may_be_statistic: bool = False


@dataclass(frozen=True, slots=True)
class Depth:
    """How many bits the samples of an image use, and whether its file says so."""

    bits: int
    declared: bool


def choose_depth(bands: Sequence[NDArray[Any]], declared: DeclaredDepth | None = None) -> Depth:
    """Choose the bit depth of an image from its values, integers from 0 to 65535, and from what its file declares."""
    largest = max(int(band.max()) for band in bands)
    if declared is None or (declared.may_be_statistic and largest >= 2**declared.bits - 1):
        return Depth(next(bits for bits in DEPTHS if largest < 2**bits), declared=False)
    low_bits = 2 ** (FILE_BITS - declared.bits) - 1
    scaled = largest >= 2**declared.bits or (
        declared.may_be_scaled and not any(np.bitwise_or.reduce(band, axis=None) & low_bits for band in bands)
    )
    return Depth(FILE_BITS if scaled else declared.bits, declared=True)


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
