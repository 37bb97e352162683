"""Files that are not accepted are named by their content; damaged files of accepted formats are called damaged."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from models.errors import ImageCorrupt, ImageFormatUnsupported
from models.images.decoding import DecodeLimits
from models.images.preprocessing import decode
from tests.unit.models.pictures import chunk, encoded, scene, tiff_of, tiff_page

PICTURE = Image.fromarray(scene())
GREY = scene()[..., 0]


def media(brand: bytes, *compatible: bytes) -> bytes:
    """Return the beginning of an ISO base media file."""
    brands = brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + b"\0\0\0\x08mdat"


def jpeg_with(marker: int, bits: int = 8, channels: int = 1) -> bytes:
    """Return a JPEG file whose frame header has this marker."""
    frame = struct.pack(">HBHHB", 8 + 3 * channels, bits, 24, 40, channels) + bytes(3 * channels)
    comment = b"\xff\xfe\x00\x04hi"
    return b"\xff\xd8" + comment + b"\xff\xff" + bytes([marker]) + frame + b"\xff\xd9"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (encoded(PICTURE, "GIF"), "GIF"),
        (encoded(PICTURE, "AVIF"), "AVIF"),
        (encoded(PICTURE, "JPEG2000"), "JPEG 2000"),
        (encoded(PICTURE, "PPM"), "Netpbm"),
        (encoded(PICTURE, "ICO"), "icon"),
        (encoded(PICTURE, "PDF"), "PDF"),
        (encoded(PICTURE, "EPS"), "PostScript"),
        (media(b"heic", b"mif1", b"heic"), "HEIC"),
        (media(b"mif1", b"mif1", b"heix"), "HEIC"),
        (media(b"mif1", b"mif1", b"avif"), "AVIF"),
        (media(b"isom", b"isom", b"mp42"), "video"),
        (media(b"qt  "), "video"),
        (media(b"crx "), "raw image of a camera"),
        (b"\x1aE\xdf\xa3" + bytes(40), "video"),
        (b"RIFF\x10\0\0\0AVI LIST", "video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"8BPS\0\x01" + bytes(40), "Photoshop"),
        (bytes(128) + b"DICM", "DICOM"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf<svg/>", "SVG"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"PK\x03\x04" + bytes(40), "ZIP"),
        (b"iVBORw0KGgoAAAANSUhEUg==", "Base64"),
        (b"data:image/png;base64,iVBORw0KGgo=", "data URL"),
        ("Prüfbericht\n".encode(), "text"),
        (jpeg_with(0xF7), "JPEG-LS"),
        (jpeg_with(0xC3), "lossless JPEG"),
        (jpeg_with(0xC1, bits=12), "JPEG with 12 bits"),
        (jpeg_with(0xC0, channels=2), "JPEG with 2 channels"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", b"0 \x06\0") + chunk(b"IHDR", bytes(13)), "Apple's variant of PNG"),
    ],
)
def test_a_kind_that_is_not_supported_is_named(content: bytes, kind: str) -> None:
    with pytest.raises(ImageFormatUnsupported, match=kind) as raised:
        decode(content)
    assert "export the image as PNG" in str(raised.value) or "export it as" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (tiff_of(tiff_page(GREY.astype(np.float64))), "floating-point samples of 64 bits"),
        (tiff_of(tiff_page(GREY.astype(np.float16))), "floating-point samples of 16 bits"),
        (tiff_of(tiff_page(GREY.astype(np.int8))), "signed samples of 8 bits"),
        (tiff_of(tiff_page(GREY.astype(np.uint64))), "unsigned samples of 64 bits"),
        (tiff_of(tiff_page(GREY.astype(np.complex64))), "samples of 64 bits"),
        (tiff_of(tiff_page(GREY, {258: (10,)})), "unsigned samples of 10 bits"),
        (tiff_of(tiff_page(GREY, {259: (34712,)})), "JPEG 2000"),
        (tiff_of(tiff_page(GREY, {259: (34887,)})), "LERC"),
        (tiff_of(tiff_page(GREY, {259: (9999,)})), "compression 9999"),
        (tiff_of(tiff_page(scene(), {262: (8,)})), "CIELAB"),
        (tiff_of(tiff_page(GREY, {262: (32803,)})), "raw image of a camera"),
        (tiff_of(tiff_page(scene(), {50706: (1,)})), "raw image of a camera"),
        (tiff_of(tiff_page(scene(), {254: (1,), 330: (8,)})), "raw image of a camera"),
        (tiff_of(tiff_page(scene().astype(np.uint16), {284: (2,)})), "separate colour planes of 16 bits"),
        (tiff_of(tiff_page(scene(), {262: (6,), 530: (2, 2)})), "YCbCr subsampling"),
        (tiff_of(tiff_page(GREY, {262: (3,), 320: tuple(range(256)) * 3})), "palette of 8-bit values"),
        (tiff_of(tiff_page(np.zeros((24, 40, 7), np.uint8))), "8+8+8+8+8+8+8 bits"),
    ],
)
def test_a_tiff_that_would_be_read_wrongly_is_rejected_with_its_kind(content: bytes, kind: str) -> None:
    with pytest.raises(ImageFormatUnsupported) as raised:
        decode(content)
    assert kind in str(raised.value)
    assert "export it as PNG" in str(raised.value)


def test_an_unusual_bmp_is_rejected_with_its_kind() -> None:
    content = bytearray(encoded(PICTURE, "BMP"))
    content[28:30] = struct.pack("<H", 64)
    with pytest.raises(ImageFormatUnsupported, match="BMP of an unusual kind"):
        decode(bytes(content))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_a_format_that_is_switched_off_is_named(file_format: str) -> None:
    other = "PNG" if file_format != "PNG" else "BMP"
    with pytest.raises(ImageFormatUnsupported, match="none of " + other):
        decode(encoded(PICTURE, file_format), DecodeLimits(formats=(other,)))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8",
        b"\x89PNG\n\x1a\n" + bytes(40),
        b"II*\0",
        b"MM\0*\0\0\0\x08",
        b"II*\0\xff\xff\xff\x7f",
        b"BM" + bytes(60),
        b"RIFF\x10\0\0\0WEBPVP8 ",
    ],
    ids=[
        "2 bytes of a JPEG",
        "a PNG sent as text",
        "TIFF header",
        "TIFF without tags",
        "TIFF, tags outside",
        "BMP",
        "WebP",
    ],
)
def test_a_damaged_file_of_an_accepted_format_is_called_damaged(content: bytes) -> None:
    with pytest.raises(ImageCorrupt, match="undamaged file") as raised:
        decode(content)
    assert "Error" not in str(raised.value)
