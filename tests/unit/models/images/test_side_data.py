"""What lies in a file beside the picture does not matter: profiles, texts, thumbnails, unused alpha channels."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from models.errors import ImageFormatUnsupported, ImageTooLarge
from models.images.preprocessing import decode
from tests.unit.models.pictures import TiffContent, chunk, encoded, planes, scene, tiff_of, tiff_page

PIXELS = scene()
PLAIN = encoded(Image.fromarray(PIXELS))
KIND_OF_PAGE = 254


def with_chunk(*chunks: bytes, last: bool = False) -> bytes:
    at = len(PLAIN) - 12 if last else 33
    return PLAIN[:at] + b"".join(chunks) + PLAIN[at:]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "side",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**23))),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(2**23))),
        chunk(b"tEXt", b"Comment\0" + bytes(2**21)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**23))),
        chunk(b"iCCP", b"profile\0\0not compressed"),
        chunk(b"pHYs", b"\0"),
        chunk(b"tIME", b"")[:-4] + b"\0\0\0\0",
        chunk(b"prVt", bytes(2**20)),
    ],
    ids=["text", "international text", "plain text", "profile", "damaged profile", "resolution", "checksum", "private"],
)
def test_large_or_damaged_side_data_of_a_png_is_ignored(side: bytes, last: bool) -> None:
    assert torch.equal(decode(with_chunk(side, last=last)), planes(PIXELS))


def test_a_jpeg_with_a_large_profile_is_read() -> None:
    image = Image.fromarray(PIXELS)
    with_profile = encoded(image, "JPEG", icc_profile=bytes(2**21), comment=b"x" * 60_000)
    assert torch.equal(decode(with_profile), decode(encoded(image, "JPEG")))


@pytest.mark.parametrize("keyword", ["Raw profile type exif", "XML:com.adobe.xmp"])
def test_an_orientation_in_the_text_of_a_png_is_applied(keyword: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    texts = {
        "Raw profile type exif": f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n",
        "XML:com.adobe.xmp": '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>',
    }
    info = PngImagePlugin.PngInfo()
    info.add_itxt(keyword, texts[keyword]) if "XML" in keyword else info.add_text(keyword, texts[keyword])
    assert decode(encoded(Image.fromarray(PIXELS), pnginfo=info)).shape == (3, 40, 24)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [{KIND_OF_PAGE: (1,)}, {KIND_OF_PAGE: (4,)}, {255: (2,)}])
def test_the_main_picture_of_a_tiff_is_read_wherever_its_thumbnail_lies(
    kind: dict[int, tuple[int, ...]], order: str
) -> None:
    main, thumbnail = tiff_page(PIXELS), tiff_page(PIXELS[::2, ::2], kind)
    for pages in ((main, thumbnail), (thumbnail, main), (thumbnail, main, thumbnail)):
        assert torch.equal(decode(tiff_of(*pages, order=order)), planes(PIXELS))


def test_a_thumbnail_of_an_unsupported_kind_does_not_matter() -> None:
    thumbnail = TiffContent({**tiff_page(PIXELS).tags, 259: (34712,), KIND_OF_PAGE: (1,)}, b"jpeg 2000")
    assert torch.equal(decode(tiff_of(thumbnail, tiff_page(PIXELS))), planes(PIXELS))


def test_pages_that_are_not_marked_as_thumbnails_are_rejected() -> None:
    for kinds in (({}, {}), ({}, {KIND_OF_PAGE: (2,)}), ({KIND_OF_PAGE: (1,)}, {KIND_OF_PAGE: (1,)})):
        with pytest.raises(ImageFormatUnsupported, match="2 frames or pages"):
            decode(tiff_of(*[tiff_page(PIXELS, tags) for tags in kinds]))


def test_a_picture_that_is_alone_is_read_even_if_it_is_marked_as_reduced() -> None:
    assert torch.equal(decode(tiff_of(tiff_page(PIXELS, {KIND_OF_PAGE: (1,)}))), planes(PIXELS))


def test_endless_pages_are_rejected() -> None:
    page = tiff_page(np.zeros((8, 8), np.uint8))
    with pytest.raises(ImageTooLarge, match="1000 pages"):
        decode(tiff_of(*[page] * 1001))
    endless = bytearray(tiff_of(page))
    endless[-4:] = endless[4:8]  # the next page is the same page
    assert decode(bytes(endless)).shape == (1, 8, 8)


def bmp_with_alpha(alpha: int) -> bytes:
    """Return a BMP of 32 bits with a header of version 5, whose fourth byte of each pixel is `alpha`."""
    height, width = PIXELS.shape[:2]
    blue_first = np.dstack([PIXELS[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(blue_first), 2835, 2835, 0, 0) + masks
    header += b"BGRs" + bytes(124 - len(header) - 4)
    return b"BM" + struct.pack("<IHHI", 14 + 124 + len(blue_first), 0, 0, 14 + 124) + header + blue_first


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_bmp_whose_alpha_channel_is_unused_shows_its_colours(alpha: int) -> None:
    assert torch.equal(decode(bmp_with_alpha(alpha)), planes(PIXELS))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_that_is_zero_everywhere_is_ignored(mode: str, file_format: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode[:-1])
    unused = image.convert(mode)
    unused.putalpha(0)
    options: dict[str, object] = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    found = decode(encoded(unused, file_format, **options))
    expected = decode(encoded(image))
    assert torch.equal(found, expected.expand(found.shape))
    unused.putpixel((0, 0), (*unused.getpixel((0, 0))[:-1], 255))  # type: ignore[index]
    assert set(decode(encoded(unused, file_format, **options))[:, 1:, 1:].flatten().tolist()) == {128}
