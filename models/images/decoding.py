"""Decodes untrusted image files to canonical uint8 images.

The format is detected from the content, limits are checked from the header before decoding, and every pixel format is
converted to 8 bits. This module does not import torch, so that decoder processes stay small. Its rules are part of
``models.images.preprocessing.PREPROCESSING_VERSION``:

- Transparent pixels are composited over mid-grey (128), so that black and white drawings both stay visible. An alpha
  channel that is zero everywhere is ignored: some programs write it so and mean an opaque image.
- Integers of 16 bits, and those of 32 bits that are within 0..65535, are scaled by their bit depth; see
  ``models.images.depth``. Of other integers of 32 bits, the image's own range is scaled. Floats are scaled by 255 if
  they are within 0..1; otherwise their own range is scaled.
- Files with several frames or pages are rejected. Thumbnails and masks that a TIFF file marks as such do not count. Of
  a multi-picture JPEG, the first picture is used.
- EXIF orientation is applied once. Unreadable orientation counts as upright.
- Grey images have one channel, colour images three; ``ImageConfig`` converts them later.

The size bounds below are not part of ``PREPROCESSING_VERSION``: they decide how much detail of a large image is kept,
not how a net's input is made from it.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models.errors import (
    AnoleError,
    ImageCorrupt,
    ImageDepthMismatch,
    ImageEmpty,
    ImageFormatUnsupported,
    ImageRejected,
    ImageTooLarge,
    ImageTooSmall,
    InvalidConfig,
)
from models.images import tiff
from models.images.depth import FILE_BITS
from models.images.kinds import kind_of, unsupported_jpeg
from models.images.pixels import Source, has_wide_colours, to_8_bit_image
from models.images.png import without_side_data

CANONICAL_PIXELS = 256 * 256
"""Largest area of a canonical image. The area is bounded rather than the longer side, so that the thin defects of a
long, narrow image stay visible."""
CANONICAL_MAX_SIDE = 1024
"""Longest side of a canonical image."""
REDUCING_GAP = 2
"""A large image is first averaged over blocks, to no less than this multiple of the canonical size."""

SMALL_BYTES = 96 * 1024 * 1024
"""Memory that most images need at most while they are decoded: those of 12 megapixels in colour, or 30 in grey."""

_ORIENTATION_TAG = 0x0112
_PILLOW_MUTED = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # in the format of warnings.filters

_FORMATS: dict[str, tuple[tuple[bytes, ...], Callable[[io.BytesIO], ImageFile.ImageFile]]] = {
    "JPEG": ((b"\xff\xd8",), JpegImageFile),
    "PNG": ((b"\x89PNG",), PngImageFile),
    "BMP": ((b"BM",), BmpImageFile),
    "WEBP": ((b"RIFF",), WebPImageFile),
    "TIFF": ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
}

_WAY_OUT = "export the image as PNG or JPEG"

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodeLimits:
    """Limits on image files, checked before any pixel is decoded.

    Attributes:
        max_pixels: maximum width x height.
        min_side: minimum length of the shorter side in pixels.
        max_side: maximum length of the longer side in pixels.
        max_bytes: maximum file size.
        formats: accepted formats, detected from the content.
    """

    max_pixels: int = 25_000_000
    min_side: int = 8
    max_side: int = 12_000
    max_bytes: int = 10 * 1024 * 1024
    formats: tuple[str, ...] = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(_FORMATS))
        if unknown or not self.formats:
            raise InvalidConfig(f"DecodeLimits.formats is {self.formats}; allowed: at least one of {sorted(_FORMATS)}")


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, slots=True)
class DecodedPixels:
    """A canonical image.

    Attributes:
        pixels: uint8 (1 or 3, height, width), upright. It has at most `CANONICAL_PIXELS` pixels and no side is longer
            than `CANONICAL_MAX_SIDE`; larger images are scaled down, and smaller ones keep their size.
        bit_depth: bits that it was scaled from, if its file has 16 bits per sample and does not declare how many of
            them it uses; otherwise None.
        zero: uint8 (1, height, width), what each channel would be if all samples were zero; None if that is black, or
            if `bit_depth` is None. It is not black where the image is transparent, or if the lowest value is white.
    """

    pixels: NDArray[np.uint8]
    bit_depth: int | None = None
    zero: NDArray[np.uint8] | None = None

    def at_depth(self, bit_depth: int | None) -> NDArray[np.uint8]:
        """Return the pixels as if an undeclared bit depth were the given one, which other images of the client have.

        Raises:
            ImageDepthMismatch: the image needs more bits.
        """
        if self.bit_depth is None or bit_depth is None or self.bit_depth == bit_depth:
            return self.pixels
        if self.bit_depth > bit_depth:
            raise ImageDepthMismatch(
                f"the image needs {self.bit_depth} bits per sample, but the client's images of {FILE_BITS} bits use "
                f"only {bit_depth} (values from 0 to {2**bit_depth - 1}); save all images in the same way, declare the "
                "bit depth in the files (PNG: sBIT; TIFF: BitsPerSample or MaxSampleValue), or set the client's "
                f"bit_depth to {self.bit_depth} (PATCH /clients/CLIENT/settings) and send all samples again, with "
                "mode=replace; if they need several requests, delete the client first and set bit_depth with PUT"
            )
        factor = (2**self.bit_depth - 1) / (2**bit_depth - 1)
        scaled = self.pixels * np.float32(factor)
        if self.zero is not None:
            scaled += self.zero * np.float32(1 - factor)
        rounded: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return rounded


class MemoryNeeded(AnoleError):
    """Decoding the image needs more memory than the caller allows now."""


def decode_pixels(
    content: bytes, limits: DecodeLimits = DEFAULT_LIMITS, *, working_bytes: int | None = None
) -> DecodedPixels:
    """Decode one image file to its canonical image.

    Args:
        content: the file.
        limits: what is accepted.
        working_bytes: memory that decoding may take, estimated from the header; None is any.

    Raises:
        ImageEmpty: there are no bytes.
        ImageFormatUnsupported: the format or pixel format is not accepted, or the file has several frames.
        ImageTooLarge: the image exceeds a limit, or decoding exceeds the memory of the process.
        ImageTooSmall: a side is shorter than the limit.
        ImageCorrupt: the content is truncated or damaged.
        MemoryNeeded: decoding takes more than `working_bytes`.
    """
    _check_size(content, limits)
    format_name = _format_of(content, limits)
    _mute_pillow()
    try:
        return _decoded(_source(content, format_name), _FORMATS[format_name][1], limits, working_bytes)
    except (ImageRejected, MemoryNeeded):
        raise
    except MemoryError as error:
        raise ImageTooLarge("decoding the image takes more memory than allowed; send a smaller image") from error
    except Exception as error:  # decoders raise arbitrary exceptions on damaged or hostile content
        raise _undecodable(content, format_name, str(error)) from error


def _source(content: bytes, format_name: str) -> Source:
    if format_name == "PNG":
        return without_side_data(content)
    if format_name == "TIFF":
        return tiff.main_page(content)
    unusual = unsupported_jpeg(content) if format_name == "JPEG" else None
    if unusual is not None:
        raise ImageFormatUnsupported(f"the image is {unusual}, which is not supported; {_WAY_OUT}")
    return Source(content)


def _undecodable(content: bytes, format_name: str, reason: str) -> ImageRejected:
    """Return the error for what Pillow raised: a kind of image that it does not support, or damage."""
    if format_name == "BMP" and reason.startswith("Unsupported BMP") and "header" not in reason:
        return ImageFormatUnsupported(f"the image is a BMP of an unusual kind ({reason}); {_WAY_OUT}")
    if format_name == "TIFF" and reason in ("unknown pixel mode", "Invalid value for samples per pixel"):
        return tiff.unsupported_pixels(content)
    return ImageCorrupt(
        f"the content starts like {format_name} but cannot be decoded ({reason or 'it ends too early'}); send the "
        "complete, undamaged file"
    )


def _mute_pillow() -> None:
    """Silence Pillow's warnings about unusual metadata.

    Warning filters are global to the process. Adding a filter for Pillow's modules once is safe with threads, unlike
    ``warnings.catch_warnings`` around each call.
    """
    if _PILLOW_MUTED not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW_MUTED[3].pattern)


def _check_size(content: bytes, limits: DecodeLimits) -> None:
    if not content:
        raise ImageEmpty("the image is empty; send the content of an image file")
    if len(content) > limits.max_bytes:
        raise ImageTooLarge(
            f"the image has {len(content)} bytes; at most {limits.max_bytes} are allowed: "
            "send a smaller or more compressed image"
        )


def _format_of(content: bytes, limits: DecodeLimits) -> str:
    for name in limits.formats:
        if content.startswith(_FORMATS[name][0]) and (name != "WEBP" or content[8:12] == b"WEBP"):
            return name
    found = next((name for name, (beginnings, _) in _FORMATS.items() if content.startswith(beginnings)), None)
    kind = kind_of(content) or found
    described = f"is {kind}" if kind else f"starts with {content[:8]!r}"
    raise ImageFormatUnsupported(
        f"the content {described}, which is none of {', '.join(limits.formats)}; the format is detected from the "
        f"content, not from the file name: {_WAY_OUT}"
    )


def _check_header(image: ImageFile.ImageFile, limits: DecodeLimits) -> None:
    width, height = image.size
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height} pixels; at most {limits.max_side} per side and {limits.max_pixels} in "
            "total are allowed: send a smaller image"
        )
    if min(width, height) < limits.min_side:
        raise ImageTooSmall(f"the image is {width} x {height} pixels; each side must be at least {limits.min_side}")
    if isinstance(image, TiffImageFile):
        _check_tiles(image, limits)
        return  # its pages were counted before
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageFormatUnsupported(f"the file has {frames} frames or pages; send each as a separate image")


def _check_tiles(image: TiffImageFile, limits: DecodeLimits) -> None:
    """Check the tile size: a small TIFF can declare huge tiles, which are decoded whole."""
    sides = [image.tag_v2.get(tag, 1) for tag in (TILEWIDTH, TILELENGTH)]
    if not all(isinstance(side, int) and 0 < side <= limits.max_side for side in sides):
        raise ImageTooLarge(f"the image has tiles of {sides} pixels; at most {limits.max_side} per side are allowed")
    if sides[0] * sides[1] > limits.max_pixels:
        raise ImageTooLarge(f"the image has tiles of {sides} pixels; at most {limits.max_pixels} in total are allowed")


def _check_memory(image: ImageFile.ImageFile, working_bytes: int | None) -> None:
    if working_bytes is not None and image.width * image.height * _bytes_per_pixel(image) > working_bytes:
        raise MemoryNeeded("decoding the image takes much memory")


def _bytes_per_pixel(image: ImageFile.ImageFile) -> int:
    """Memory per pixel while an image is decoded and converted, as measured at 25 megapixels and rounded up."""
    if isinstance(image, JpegImageFile) and image.mode in ("L", "RGB"):
        return 7 if "progressive" in image.info else 1  # others are scaled down while they are read
    if has_wide_colours(image):
        return 28
    opaque = "transparency" not in image.info
    measured = {"1": 3, "L": 3, "P": 6, "I;16": 13}.get(image.mode, 9) if opaque else 9
    return measured + 10 if isinstance(image, WebPImageFile) else measured


def _canonical_size(width: int, height: int) -> tuple[int, int]:
    """The (width, height) of the canonical image: the same aspect ratio within the bounds, rounded down."""
    pixels = min(width * height, CANONICAL_PIXELS)
    sides = math.isqrt(pixels * width // height), math.isqrt(pixels * height // width)
    longest = max(*sides, CANONICAL_MAX_SIDE)
    return max(1, sides[0] * CANONICAL_MAX_SIDE // longest), max(1, sides[1] * CANONICAL_MAX_SIDE // longest)


def _decoded(
    source: Source,
    opened: Callable[[io.BytesIO], ImageFile.ImageFile],
    limits: DecodeLimits,
    working_bytes: int | None,
) -> DecodedPixels:
    def read_as(layout: str) -> ImageFile.ImageFile:
        image = opened(io.BytesIO(source.content))
        image.tile = [tile._replace(args=_with_layout(tile.args, layout)) for tile in image.tile]
        return image

    with opened(io.BytesIO(source.content)) as image:
        _check_header(image, limits)
        _check_memory(image, working_bytes)
        width, height = _canonical_size(*image.size)
        if isinstance(image, JpegImageFile) and image.mode in ("L", "RGB") and (width, height) != image.size:
            image.draft(image.mode, (2 * width, 2 * height))
        converted = to_8_bit_image(image, source, read_as)
        orientation = _orientation(image)
        zero = None if converted.zero is None else _canonical(converted.zero, orientation)
        return DecodedPixels(_canonical(converted.image, orientation), converted.bit_depth, zero)


def _with_layout(arguments: Any, layout: str) -> Any:
    """Replace the name of the pixel layout in the arguments of one of Pillow's decoders."""
    return (layout, *arguments[1:]) if isinstance(arguments, tuple) else layout


def _canonical(upright: Image.Image, orientation: int) -> NDArray[np.uint8]:
    """Turn an image of 8 bits upright and scale it down: uint8 (1 or 3, height, width)."""
    if orientation in _TRANSPOSITIONS:
        upright = upright.transpose(_TRANSPOSITIONS[orientation])
    size = _canonical_size(*upright.size)
    if size != upright.size:
        upright = upright.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    pixels = np.array(upright, dtype=np.uint8)  # (height, width[, 3])
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (1|3, height, width)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation. Call after loading: by then Pillow has applied and removed that of a TIFF."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged metadata must not reject a readable image
        orientation = 1
    return orientation if isinstance(orientation, int) else 1
