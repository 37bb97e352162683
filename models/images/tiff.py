"""Finds the main picture of a TIFF file, and rejects the kinds of TIFF that Pillow rejects or reads wrongly."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from models.errors import ImageFormatUnsupported, ImageTooLarge
from models.images.depth import DeclaredDepth
from models.images.pixels import Source

_KIND_OF_PAGE, _OLD_KIND_OF_PAGE = 254, 255
_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262
_SAMPLES, _PLANES, _SAMPLE_FORMAT = 277, 284, 339
_MAX_VALUE, _OTHER_MAX_VALUE = 281, 341
_COLOUR_MAP, _SUB_FILES, _SUBSAMPLING = 320, 330, 530
_RAW_CAMERA_TAGS: Final = (50706, 50752)  # of DNG and CR2

_SHORT: Final = 3
_REDUCED_OR_MASK: Final = 0b101
_MAX_PAGES: Final = 1000

_COMPRESSIONS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001})
_NAMES_OF_COMPRESSIONS: Final = {
    **dict.fromkeys((33003, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    34661: "JBIG",
    34887: "LERC",
    34892: "lossy DNG",
}
_PHOTOMETRICS: Final = {
    0: "grey",
    1: "grey",
    2: "RGB",
    3: "palette",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32844: "LogL",
    32845: "LogLuv",
}
_CAMERA_RAW: Final = frozenset({32803, 34892})
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_SAMPLE_FORMATS: Final = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "floating-point"}


def main_page(content: bytes) -> Source:
    """Return the only page that is neither a reduced copy of another page, such as a thumbnail, nor a mask.

    Raises:
        ImageFormatUnsupported: there are several such pages, or its kind is not supported.
        ImageTooLarge: there are too many pages.
        Exception: the tags are damaged.
    """
    pages = _pages(content)
    main = [position for position, secondary in pages.items() if not secondary] or list(pages)
    if len(main) != 1:
        raise ImageFormatUnsupported(f"the file has {len(main)} frames or pages; send each as a separate image")
    tags = _tags(content, main[0])
    if _is_camera_raw(content, tags, preview=pages[main[0]]):
        raise _unsupported("a raw image of a camera, such as DNG, NEF or CR2")
    _check_supported(tags)
    return Source(
        content=_starting_at(content, main[0]),
        declared=_declared_depth(tags),
        white_is_zero=tags.get(_PHOTOMETRIC, 0) == 0,
        unsigned=_sample_format(tags) == _UNSIGNED,
    )


def _pages(content: bytes) -> dict[int, bool]:
    """Return the position of the tags of each page, and whether the page is a reduced copy or a mask."""
    layout = _layout(content)
    pages: dict[int, bool] = {}
    (position,) = layout.link.unpack_from(content, layout.first)
    while position and position not in pages:
        if len(pages) == _MAX_PAGES:
            raise ImageTooLarge(f"the file has more than {_MAX_PAGES} pages; send each as a separate image")
        (count,) = layout.count.unpack_from(content, position)
        start = position + layout.count.size
        end = start + count * layout.entry.size
        pages[position] = any(
            _is_secondary(tag, (layout.short if field_type == _SHORT else layout.long).unpack_from(value)[0])
            for tag, field_type, value in layout.entry.iter_unpack(content[start:end])
        )
        (position,) = layout.link.unpack_from(content, end)
    return pages


def _is_secondary(tag: int, value: int) -> bool:
    return bool(tag == _KIND_OF_PAGE and value & _REDUCED_OR_MASK) or (tag == _OLD_KIND_OF_PAGE and value == 2)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The structures of a TIFF or BigTIFF file.

    Attributes:
        first: position of the link to the first page.
        link: position of the tags of a page.
        count: number of tags.
        entry: tag, type and value.
        short: a value of type SHORT.
        long: a value of type LONG.
    """

    first: int
    link: struct.Struct
    count: struct.Struct
    entry: struct.Struct
    short: struct.Struct
    long: struct.Struct


def _layout(content: bytes) -> _Layout:
    order = "<" if content.startswith(b"II") else ">"
    if content[2:4] in (b"+\0", b"\0+"):
        return _Layout(8, *(struct.Struct(order + form) for form in ("Q", "Q", "HH8x8s", "H", "L")))
    return _Layout(4, *(struct.Struct(order + form) for form in ("L", "H", "HH4x4s", "H", "L")))


def _tags(content: bytes, position: int) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2(content[: 16 if _layout(content).first == 8 else 8])
    file = io.BytesIO(content)
    file.seek(position)
    tags.load(file)
    return tags


def _starting_at(content: bytes, position: int) -> bytes:
    """Return the file with the page at `position` as its first one."""
    layout = _layout(content)
    return content[: layout.first] + layout.link.pack(position) + content[layout.first + layout.link.size :]


def _is_camera_raw(content: bytes, tags: ImageFileDirectory_v2, *, preview: bool) -> bool:
    """Whether it is a raw file of a camera: such a file has its picture in a format of the maker, beside a preview."""
    marked = content[8:10] == b"CR" or any(tag in tags for tag in _RAW_CAMERA_TAGS)
    return marked or tags.get(_PHOTOMETRIC) in _CAMERA_RAW or (preview and _SUB_FILES in tags)


def _check_supported(tags: ImageFileDirectory_v2) -> None:
    compression, photometric = tags.get(_COMPRESSION, 1), tags.get(_PHOTOMETRIC, 0)
    if compression not in _COMPRESSIONS:
        raise _unsupported(f"a TIFF with {_NAMES_OF_COMPRESSIONS.get(compression, f'the compression {compression}')}")
    bits, sample_format = max(_numbers(tags.get(_BITS, 1))), _sample_format(tags)
    if bits not in _allowed_bits(sample_format, compression):
        kind = _SAMPLE_FORMATS.get(sample_format, "unknown")
        raise _unsupported(f"a TIFF with {kind} samples of {bits} bits")
    if photometric not in (0, 1, 2, 3, 5, 6):
        raise _unsupported(f"a TIFF in the colour space {_PHOTOMETRICS.get(photometric, photometric)}")
    if bits > 8 and tags.get(_PLANES, 1) == 2 and tags.get(_SAMPLES, 1) > 1:
        raise _unsupported(f"a TIFF with separate colour planes of {bits} bits")
    if photometric == 6 and compression == 1 and _numbers(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1):
        raise _unsupported("an uncompressed TIFF with reduced colour resolution (YCbCr subsampling)")
    if photometric == 3 and max(_numbers(tags.get(_COLOUR_MAP, (256,)))) < 256:
        raise _unsupported("a TIFF with a palette of 8-bit values, where 16-bit values are required")


def _allowed_bits(sample_format: int, compression: int) -> Sequence[int]:
    """Bits per sample that Pillow reads rightly."""
    if compression in (6, 7):  # JPEG
        return (8,)
    return {_UNSIGNED: (1, 2, 4, 8, 12, 16, 32), _SIGNED: (16, 32), _FLOAT: (32,)}.get(sample_format, ())


def unsupported_pixels(content: bytes) -> ImageFormatUnsupported:
    """Return the error for a page whose combination of tags Pillow does not know."""
    layout = _layout(content)
    tags = _tags(content, *layout.link.unpack_from(content, layout.first))
    bits = "+".join(str(bits) for bits in _numbers(tags.get(_BITS, 1)))
    colours = _PHOTOMETRICS.get(tags.get(_PHOTOMETRIC, 0), "unknown")
    return _unsupported(f"a TIFF with {bits} bits of {_SAMPLE_FORMATS.get(_sample_format(tags), 'unknown')} {colours}")


def _unsupported(kind: str) -> ImageFormatUnsupported:
    return ImageFormatUnsupported(
        f"the image is {kind}, which is not supported; export it as PNG, or as TIFF in grey or RGB with 8 or 16 bits "
        "per sample"
    )


def _declared_depth(tags: ImageFileDirectory_v2) -> DeclaredDepth | None:
    """Return the bit depth from the tags.

    The largest value is often a statistic of the image or of several. It declares a depth only if it is full scale of
    more than 8 bits, such as 4095.
    """
    bits = max(_numbers(tags.get(_BITS, 1)))
    if 8 < bits < 16:
        return DeclaredDepth(bits)
    given = [_numbers(tags[tag]) for tag in (_MAX_VALUE, _OTHER_MAX_VALUE) if tag in tags]
    largest = int(max((max(numbers) for numbers in given), default=0))
    bits = largest.bit_length()
    return DeclaredDepth(bits, may_be_statistic=True) if 8 < bits <= 16 and largest == 2**bits - 1 else None


def _sample_format(tags: ImageFileDirectory_v2) -> int:
    return max(_numbers(tags.get(_SAMPLE_FORMAT, _UNSIGNED)))


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)
