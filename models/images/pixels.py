"""Converts the pixels of an opened image to 8 bits, grey or RGB."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from models.errors import ImageCorrupt, ImageFormatUnsupported
from models.images.depth import FILE_BITS, DeclaredDepth, Depth, choose_depth, to_8_bits

_BACKGROUND_GREY: Final = 128
_STRIP_ROWS: Final = 64
"""Rows of a transparent image that are converted at once."""

_OPPOSITE: Final = "B" if sys.byteorder == "little" else "L"
_LAYOUT_OF_LOW_BYTES: Final = {
    "LA;16B": "RGBA",
    **{f"{bands};16{order}": f"{bands};16{other}"
       for bands in ("RGB", "RGBA", "RGBX")
       for order, other in (("B", "L"), ("L", "B"), ("N", _OPPOSITE))},
}  # fmt: skip
"""Pillow reads only the high bytes of colours of 16 bits. With the opposite byte order it reads their low bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and what Pillow does not say about it.

    Attributes:
        content: the file, as Pillow should read it.
        declared: bit depth that it declares for samples of 16 bits, or None.
        white_is_zero: whether the lowest value is white. Pillow inverts such images of up to 8 bits only.
        unsigned: whether the samples are unsigned. Pillow reads all those of 32 bits as signed.
    """

    content: bytes
    declared: DeclaredDepth | None = None
    white_is_zero: bool = False
    unsigned: bool = False


@dataclass(frozen=True, slots=True)
class EightBitImage:
    """An image of mode L or RGB.

    Attributes:
        image: its pixels.
        bit_depth: bits that its samples were scaled from, if its file has 16 bits per sample and does not declare how
            many of them it uses; otherwise None.
        zero: what the image would be if all its samples were zero, in mode L; None if that is black, or if `bit_depth`
            is None. It is not black where it is transparent, or if the lowest value is white.
    """

    image: Image.Image
    bit_depth: int | None = None
    zero: Image.Image | None = None


def to_8_bit_image(
    image: ImageFile.ImageFile, source: Source, read_as: Callable[[str], ImageFile.ImageFile]
) -> EightBitImage:
    """Load an image and convert it to 8 bits.

    Args:
        image: an opened image.
        source: its file.
        read_as: opens the image again, with the pixel layout of the given name.

    Raises:
        ImageFormatUnsupported: the pixel format is not supported.
        ImageCorrupt: it has values that are not finite.
    """
    layout, wide = _layout(image), has_wide_colours(image)
    image.load()
    if wide:
        with read_as(_LAYOUT_OF_LOW_BYTES[layout]) as low:
            low.load()
            bands = _joined_grey_bands(low) if layout == "LA;16B" else _joined_bands(image, low)
        return _scaled_bands(bands, source)
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _scaled_grey(image, source)
    return EightBitImage(_EIGHT_BIT.get(image.mode, _reject_mode)(image))


def has_wide_colours(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image has colours of 16 bits per sample."""
    return image.mode in ("RGB", "RGBA") and _layout(image) in _LAYOUT_OF_LOW_BYTES


def _layout(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name for how the samples lie in the file, such as "RGB;16B"."""
    arguments = image.tile[0].args if image.tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _joined_bands(high: Image.Image, low: Image.Image) -> list[NDArray[np.uint16]]:
    """Join the high and the low bytes of each band to values of 16 bits: (height, width) each."""
    return [_joined(high.getchannel(band), low.getchannel(band)) for band in range(len(high.getbands()))]


def _joined_grey_bands(both: Image.Image) -> list[NDArray[np.uint16]]:
    """Join the bytes of grey and alpha, which were read as four bands."""
    return [_joined(both.getchannel(band), both.getchannel(band + 1)) for band in (0, 2)]


def _joined(high: Image.Image, low: Image.Image) -> NDArray[np.uint16]:
    joined = np.asarray(high).astype(np.uint16)
    joined <<= 8
    joined |= np.asarray(low)
    return joined


def _scaled_bands(bands: list[NDArray[np.uint16]], source: Source) -> EightBitImage:
    """Scale bands of 16 bits: grey or RGB, with or without alpha. Programs scale alpha in another way than colours."""
    mode = ("LA", "RGB", "RGBA")[len(bands) - 2]
    colours, alpha = (bands[:1], bands[1:]) if mode == "LA" else (bands[:3], bands[3:])
    depth = choose_depth(colours, source.declared)
    scaled = [to_8_bits(band, depth.bits) for band in colours]
    scaled += [to_8_bits(band, choose_depth([band]).bits) for band in alpha]
    merged = Image.merge(mode, [Image.fromarray(band) for band in scaled])
    zero = _over_grey(Image.merge("LA", [Image.new("L", merged.size), merged.getchannel("A")])) if alpha else None
    return EightBitImage(_EIGHT_BIT[mode](merged), *_undeclared(depth, zero))


def _scaled_grey(image: Image.Image, source: Source) -> EightBitImage:
    """Scale grey of 16 bits, 32 bits or floating point, as the docstring of `models.images.decoding` describes."""
    values: NDArray[Any] = np.asarray(image)
    if image.mode == "I" and source.unsigned:
        values = values.view(np.uint32)
    low, high = values.min(), values.max()
    if image.mode != "F" and 0 <= low and high < 2**FILE_BITS:
        depth = choose_depth([values], source.declared)
        zero = Image.new("L", image.size, 255) if source.white_is_zero else None
        return EightBitImage(_grey_image(to_8_bits(values, depth.bits), source), *_undeclared(depth, zero))
    if not np.isfinite(values).all():
        raise ImageCorrupt("the image has values that are not finite; export it as 8-bit or 16-bit grey")
    if image.mode == "F" and 0 <= low and high <= 1:
        low, high = values.dtype.type(0), values.dtype.type(1)
    if high == low:
        return EightBitImage(Image.new("L", image.size, _BACKGROUND_GREY))
    scaled = values.astype(np.float64)
    scaled -= float(low)  # in place, because each copy takes eight bytes per pixel
    scaled *= 255.0 / (float(high) - float(low))
    return EightBitImage(_grey_image(np.rint(scaled, out=scaled).astype(np.uint8), source))


def _grey_image(pixels: NDArray[np.uint8], source: Source) -> Image.Image:
    return Image.fromarray(255 - pixels if source.white_is_zero else pixels)


def _undeclared(depth: Depth, zero: Image.Image | None) -> tuple[int | None, Image.Image | None]:
    return (None, None) if depth.declared else (depth.bits, zero if zero is not None and zero.getbbox() else None)


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _colour(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _over_grey(image: Image.Image) -> Image.Image:
    """Composite a transparent image over mid-grey, strip by strip to take less memory; grey with alpha stays grey.

    An alpha channel that is zero everywhere is ignored: some programs write it so and mean an opaque image.
    """
    target, full = ("L", "LA") if image.mode in ("LA", "La") else ("RGB", "RGBA")
    result = Image.new(target, image.size)
    ignored = not any(pixels.getchannel("A").getbbox() for _, pixels in _strips(image, full))
    for top, pixels in _strips(image, full):
        strip = pixels.convert(target)
        if not ignored:
            background = Image.new(target, strip.size, _BACKGROUND_GREY if target == "L" else (_BACKGROUND_GREY,) * 3)
            background.paste(strip, mask=pixels.getchannel("A"))
            strip = background
        result.paste(strip, (0, top))
    return result


def _strips(image: Image.Image, mode: str) -> Iterator[tuple[int, Image.Image]]:
    """Yield the image in strips, converted to `mode`, with the first row of each."""
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        yield top, image.crop((0, top, image.width, bottom)).convert(mode)


def _palette(image: Image.Image) -> Image.Image:
    return _over_grey(image) if "transparency" in image.info else _colour(image)


def _reject_mode(image: Image.Image) -> Image.Image:
    raise ImageFormatUnsupported(
        f"the image has pixel format {image.mode}; allowed are grey, palette, RGB, CMYK and YCbCr, with or without "
        "transparency: convert the image to RGB"
    )


_EIGHT_BIT: Final[dict[str, Callable[[Image.Image], Image.Image]]] = {
    **dict.fromkeys(("1", "L"), _grey),
    **dict.fromkeys(("RGB", "RGBX", "CMYK", "YCbCr", "HSV"), _colour),
    **dict.fromkeys(("LA", "La", "PA", "RGBA", "RGBa"), _over_grey),
    "P": _palette,
}
