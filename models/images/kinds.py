"""Names the kind of a file by its content, for the message that it is not supported."""

from __future__ import annotations

import re
from typing import Final

_BY_BEGINNING: Final = {
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"8BPS": "Photoshop (PSD)",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II\xbc": "JPEG XR",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"SIMPLE  =": "FITS",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy array",
    b"\0\0\x01\0": "an icon (ICO)",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"gimp xcf": "GIMP (XCF)",
    b"AT&TFORM": "DjVu",
    b"\x8aMNG": "MNG",
    b"\x8bJNG": "JNG",
    b"FUJIFILMCCD-RAW": "a raw image of a camera (RAF)",
    b"IIRO": "a raw image of a camera (ORF)",
    b"IIRS": "a raw image of a camera (ORF)",
    b"IIU\0": "a raw image of a camera (RW2)",
    b"FOVb": "a raw image of a camera (X3F)",
    b"\x1aE\xdf\xa3": "video (Matroska or WebM)",
    b"\0\0\x01\xba": "video (MPEG)",
    b"\0\0\x01\xb3": "video (MPEG)",
    b"FLV\x01": "video (FLV)",
    b"OggS": "video or audio (Ogg)",
    b"0&\xb2u": "video (WMV)",
    b"PK\x03\x04": "a ZIP archive",
    b"PK\x05\x06": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"iVBORw0KGgo": "text in Base64",
    b"/9j/": "text in Base64",
    b"data:image/": "a data URL",
}

_RIFF: Final = {b"WEBP": "WebP", b"AVI ": "video (AVI)", b"WAVE": "audio (WAV)"}

_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    b"crx ": "a raw image of a camera (CR3)",
    b"jxl ": "JPEG XL",
    b"jp2 ": "JPEG 2000",
}
"""Brands of the ISO base media file format; all others are videos."""

_NETPBM: Final = re.compile(rb"P[1-7fF]\s")
_MARKUP: Final = re.compile(rb"\s*(?:<\?xml|<!--|<!doctype|<svg|<html)", re.IGNORECASE)
_SVG: Final = re.compile(rb"<(?:\w+:)?svg[\s/>]", re.IGNORECASE)
_TEXT_BYTES: Final = 1024


def kind_of(content: bytes) -> str | None:
    """Return the name of the kind of a file that is not accepted, or None if it is unknown."""
    if content[4:8] == b"ftyp":
        return _kind_of_media(content)
    if content.startswith(b"RIFF"):
        return _RIFF.get(content[8:12])
    named = next((kind for beginning, kind in _BY_BEGINNING.items() if content.startswith(beginning)), None)
    if named is not None:
        return named
    if _NETPBM.match(content):
        return "Netpbm (PBM, PGM, PPM or PFM)"
    if content[128:132] == b"DICM":
        return "DICOM"
    return _kind_of_text(content[:_TEXT_BYTES].removeprefix(b"\xef\xbb\xbf"))


def _kind_of_media(content: bytes) -> str:
    """Return the kind of an ISO base media file from its brands: the major one, the version, the compatible ones."""
    size = min(int.from_bytes(content[:4]), _TEXT_BYTES)
    brands = [content[8:12], *(content[position : position + 4] for position in range(16, size, 4))]
    kinds = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    return "AVIF" if "AVIF" in kinds else next(iter(kinds), "video (MP4 or QuickTime)")


def _kind_of_text(beginning: bytes) -> str | None:
    if _MARKUP.match(beginning):
        return "SVG" if _SVG.search(beginning) else "HTML or XML"
    text = beginning.decode("utf-8", "ignore")
    return "text" if text.strip() and all(letter.isprintable() or letter.isspace() for letter in text) else None


def unsupported_jpeg(content: bytes) -> str | None:
    """Return what is unusual about a JPEG file that decoders do not support, or None."""
    position = 2
    while position + 10 <= len(content) and content[position] == 0xFF:
        marker, size = content[position + 1], int.from_bytes(content[position + 2 : position + 4])
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xF7:
            return "JPEG-LS"
        if marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF):
            return "lossless JPEG" if marker in (0xC3, 0xCB) else "hierarchical JPEG"
        if marker in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
            bits, channels = content[position + 4], content[position + 9]
            if bits != 8:
                return f"JPEG with {bits} bits per sample"
            return None if channels in (1, 3, 4) else f"JPEG with {channels} channels"
        position += 2 + size
    return None
