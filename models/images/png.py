"""What a PNG file contains besides what Pillow reads, and what Pillow should not read."""

from __future__ import annotations

import struct
from typing import Final

from models.errors import ImageFormatUnsupported
from models.images.depth import FILE_BITS, DeclaredDepth
from models.images.pixels import Source

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_NEEDED: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})
_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_ORIENTATION_KEYS: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Keywords of texts that may contain the EXIF orientation."""


def without_side_data(content: bytes) -> Source:
    """Remove the chunks that pixels and orientation do not depend on, such as colour profiles, times and texts.

    Pillow rejects an image if they are large or damaged.

    Returns:
        The smaller file. The rest of a file that ends early is kept, so that the decoder reports the damage. The
        declared bit depth is the largest number of significant bits of a colour channel, from the chunk sBIT; a number
        that no sample can have is ignored, as libpng does.

    Raises:
        ImageFormatUnsupported: it is in Apple's variant of PNG, which decoders read wrongly.
    """
    kept, significant_bits, position = [content[: len(_SIGNATURE)]], None, len(_SIGNATURE)
    while position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        chunk = content[position : position + size + 12]
        if kind == b"CgBI":
            raise ImageFormatUnsupported("the image is in Apple's variant of PNG (CgBI); export it as plain PNG")
        if kind == b"sBIT" and 1 <= size <= 4 and len(chunk) == size + 12:
            colours = chunk[8 : 8 + (size if size % 2 else size - 1)]  # the last of two or four is the alpha channel
            significant_bits = max(colours) if 1 <= max(colours) <= FILE_BITS else None
        if kind in _NEEDED or (kind in _TEXTS and chunk[8:].startswith(_ORIENTATION_KEYS)):
            kept.append(chunk)
        position += size + 12
        if kind == b"IEND":
            break
    else:
        kept.append(content[position:])
    declared = None if significant_bits is None else DeclaredDepth(significant_bits, may_be_scaled=True)
    return Source(b"".join(kept), declared)
