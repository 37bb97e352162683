"""What is read in one sweep is what the strict parser reads; whatever is unusual is left to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some
from starlette.datastructures import Headers, UploadFile

from service.http.multipart import PartLimits, StrictParser
from service.http.plain_forms import FilePart, Part, plain_parts

LIMITS = PartLimits(max_files=3, max_fields=3, field_bytes=20, file_bytes=200)
TYPE = "multipart/form-data; boundary=x"


def strictly(content_type: str, body: bytes) -> list[Part]:
    """What the strict parser reads."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    async def live() -> list[Part]:
        form = await StrictParser(Headers({"content-type": content_type}), stream(), LIMITS).parse()
        parts: list[Part] = []
        for name, value in form.multi_items():
            file = FilePart(value.filename or "", await value.read()) if isinstance(value, UploadFile) else None
            parts.append((name, file or str(value)))
        await form.close()
        return parts

    return asyncio.run(live())


def part(head: bytes, content: bytes = b"") -> bytes:
    return b"--x\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


NAMED = b'Content-Disposition: form-data; name="client"'
FILE = b'Content-Disposition: form-data; name="images"; filename="a b.png"\r\nContent-Type: image/png'


def test_a_form_of_an_ordinary_client_is_read() -> None:
    files = [("images", ("a b.png", b"\x89PNG\r\n--\r\n\x00")), ("images", ("b.jpg", b""))]
    request = httpx.Request("POST", "http://a/predict", data={"client": "line-7", "alias": "ä"}, files=files)
    assert plain_parts(request.headers["content-type"], request.read(), LIMITS) == [
        ("client", "line-7"),
        ("alias", "ä"),
        ("images", FilePart("a b.png", b"\x89PNG\r\n--\r\n\x00")),
        ("images", FilePart("b.jpg", b"")),
    ]


heads = some.sampled_from([
    NAMED, FILE, NAMED.lower(), NAMED.replace(b'"', b""), FILE.replace(b"a b", b"a;b"), FILE.replace(b"a b", b"C:\\a"),
    FILE.replace(b"a b", b"%22"), NAMED + b"; x=y", FILE + b"; charset=utf-8", NAMED + b"\r\nX-Other: 1", b"", b"X: y",
    NAMED + b"\r\n" + NAMED, FILE.replace(b"a b.png", b""), NAMED.replace(b"client", b"\xc3\xa4"),
])  # fmt: skip
texts = some.one_of(
    some.binary(max_size=30),
    some.sampled_from([b"\r\n--x", b"--x--", b"\r\n--xy\r\n", b"\r\n\r\n", b"\xff", b"\r", b"z" * 21, b"z" * 201]),
)
wholes = some.lists(some.tuples(heads, texts), max_size=5)
ends = some.sampled_from([b"--x--\r\n", b"--x--", b"--x", b"", b"--x--\r\nepilogue", b"--x--\r\n--x\r\n"])
starts = some.sampled_from([b"", b"\r\n", b"preamble\r\n"])


@given(wholes, ends, starts, some.sampled_from([TYPE, 'multipart/form-data; boundary="x"', TYPE + "; charset=latin-1"]))
def test_what_is_read_is_what_the_strict_parser_reads(
    parts: list[tuple[bytes, bytes]], end: bytes, start: bytes, content_type: str
) -> None:
    body = start + b"".join(part(head, content) for head, content in parts) + end
    read = plain_parts(content_type, body, LIMITS)
    if read is not None:
        assert read == strictly(content_type, body)


@pytest.mark.parametrize(
    "body",
    [
        part(NAMED, b"z" * 21), part(FILE, b"z" * 201), part(NAMED, b"\xff"), part(NAMED) * 4, part(FILE) * 4,
        part(NAMED.replace(b"client", b"c" * 600)), part(NAMED + b"\r\nX: y"),
    ],
    ids=["long text", "large file", "no text", "many fields", "many files", "long name", "another header"],
)  # fmt: skip
def test_what_has_to_be_looked_at_is_left_to_the_strict_parser(body: bytes) -> None:
    assert plain_parts(TYPE, body + b"--x--\r\n", LIMITS) is None
