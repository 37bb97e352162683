"""Forms as nearly every client writes them, taken apart in one sweep; any other form is left to the strict parser.

What is read here is read by that parser in the same way, part for part; a test holds the two against each other. So
whatever is unusual, in a header, a name or a boundary, is nobody's business here, and neither is what is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from service.http.multipart import PartLimits

LARGEST_BYTES: Final = 1024 * 1024
"""Larger forms are parsed while they come, so that they can be refused before their end."""

_HEAD_BYTES: Final = 512

_BOUNDARY: Final = re.compile(r'multipart/form-data; ?boundary=(?:([0-9A-Za-z_-]{1,70})|"([0-9A-Za-z_-]{1,70})")', re.I)
_QUOTED: Final = rb'"([\x20\x21\x23-\x24\x26-\x3a\x3c-\x5b\x5d-\x7e]*)"'
_HEAD: Final = re.compile(
    rb"content-disposition: form-data; name=" + _QUOTED + rb"(?:; filename=" + _QUOTED + rb")?"
    rb"(?:\r\ncontent-type: [0-9A-Za-z!#$&^_.+/-]+(?:; ?charset=[0-9A-Za-z_-]+)?)?",
    re.I,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part with a file name, which may be empty."""

    file_name: str
    content: bytes


Part = tuple[str, str | FilePart]
"""A field's name, with text or a file."""


def plain_parts(content_type: str, body: bytes, limits: PartLimits) -> list[Part] | None:
    """The parts of a form in their order, or None where the strict parser has to look."""
    found = _BOUNDARY.fullmatch(content_type)
    if found is None:
        return None
    boundary = (found[1] or found[2]).encode()
    first, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if first or not pieces or pieces.pop() not in (b"--", b"--\r\n"):
        return None
    parts = [_part(piece, limits) for piece in pieces]
    files = sum(part is not None and isinstance(part[1], FilePart) for part in parts)
    if files > limits.max_files or len(parts) - files > limits.max_fields:
        return None
    whole = [part for part in parts if part is not None]
    return whole if len(whole) == len(parts) else None


def _part(piece: bytes, limits: PartLimits) -> Part | None:
    head, blank, content = piece.partition(b"\r\n\r\n")
    if not (blank and head.startswith(b"\r\n")):
        return None
    found = _HEAD.fullmatch(head, 2) if len(head) <= _HEAD_BYTES else None
    if found is None:
        return None
    name = found[1].decode("ascii")
    if found[2] is not None:
        return (name, FilePart(found[2].decode("ascii"), content)) if len(content) <= limits.file_bytes else None
    if len(content) > limits.field_bytes:
        return None
    try:
        return name, content.decode()
    except UnicodeDecodeError:
        return None
