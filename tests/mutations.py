"""Randomly damaged forms and images. The same seed gives the same cases."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image

INTERESTING: Final = (0, 1, 9, 10, 13, 34, 45, 58, 59, 61, 127, 128, 255)
HEADS: Final = (
    b"form-data",
    b"form-data; name=",
    b'form-data; name="client"; name="labels"',
    b"form-data; name*=utf-8''client",
    b"form-data; name=\"samples\"; filename*=utf-8''%2e%2e%2fx",
    b'form-data; name="images"; filename=""',
    b'form-data; name="client"; filename="../../x"',
    b"attachment; filename=x",
    b'form-data; name="\x00"',
    b'form-data; name="' + b"n" * 3000 + b'"',
    b"\xff\xfe\xfd",
    b"",
)
VALUES: Final = (
    b"", b"..", b"a\x00b", b"\xff\xfe", b"1e999", b"-1", b"nan", b"null", b"{}", b"line\r\nX-Injected: 1", b"9" * 40,
    "\uff41\u202eb".encode(), b"<script>", b"' OR 1=1 --", b"x" * 5000,
)  # fmt: skip
NAMES: Final = (b"client", b"labels", b"samples", b"images", b"archive", b"mode", b"seed", b"steps", b"publish",
                b"learning_rate", b"version", b"alias", b"unknown")  # fmt: skip
BOUNDARY: Final = b"between"
FORM: Final = b"multipart/form-data; boundary=" + BOUNDARY
CONTENT_TYPES: Final = (
    b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary="between',
    b"multipart/form-data; boundary=other", b"multipart/form-data; boundary=between; boundary=x", b"multipart/mixed",
    b"application/json", b"image/png", b"multipart/form-data; boundary=\xff\x00", b"",
)  # fmt: skip
FORMATS: Final = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form: Content-Disposition, content and further header lines."""

    head: bytes
    content: bytes
    more: bytes = b""

    def encode(self, boundary: bytes) -> bytes:
        return b"--%s\r\nContent-Disposition: %s\r\n%s\r\n%s\r\n" % (boundary, self.head, self.more, self.content)


def field(name: bytes, content: bytes) -> Part:
    """Return a text field."""
    return Part(b'form-data; name="%s"' % name, content)


def file(name: bytes, file_name: bytes, content: bytes) -> Part:
    """Return a file part."""
    return Part(b'form-data; name="%s"; filename="%s"' % (name, file_name), content, b"Content-Type: image/png\r\n")


@dataclass(frozen=True, slots=True)
class FormCase:
    """A damaged request: path, content type, and the body in the pieces in which it arrives."""

    path: str
    content_type: bytes
    pieces: tuple[bytes, ...]


def pick(generator: np.random.Generator, choices: Sequence[T]) -> T:
    """Return a random element."""
    return choices[int(generator.integers(len(choices)))]


def valid_forms(pictures: Sequence[bytes], others: Sequence[bytes]) -> tuple[tuple[str, tuple[Part, ...]], ...]:
    """Return paths with valid forms. Two images of each of two classes are enough."""
    labelled = [(b"good", content) for content in pictures[:2]] + [(b"bad", content) for content in others[:2]]
    samples = [
        part
        for index, (label, content) in enumerate(labelled)
        for part in (field(b"labels", label), file(b"samples", b"%d.png" % index, content))
    ]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, (label, content) in enumerate(labelled):
            archive.writestr(f"{label.decode()}/{index}.png", content)
    client = field(b"client", b"line")
    images = [file(b"images", b"%d.png" % index, content) for index, content in enumerate(pictures[:2])]
    chosen = [field(b"steps", b"1"), field(b"publish", b"always"), field(b"mode", b"replace")]
    return (
        ("/adapt", (client, *samples, *chosen)),
        ("/adapt", (client, file(b"archive", b"all.zip", packed.getvalue()), *chosen)),
        ("/predict", (client, *images)),
        ("/predict", (client, *images, field(b"version", b"1"))),
    )


def damaged_form(generator: np.random.Generator, forms: Sequence[tuple[str, tuple[Part, ...]]]) -> FormCase:
    """Return one of `forms` with changed parts, changed bytes or another content type, or several of these."""
    path, parts = pick(generator, forms)
    kept = list(parts)
    kinds = generator.permutation(3)[: generator.integers(1, 4)]
    if 0 in kinds:
        for _ in range(generator.integers(1, 4)):
            pick(generator, PART_CHANGES)(generator, kept)
    body = encode_form(kept)
    if 1 in kinds:
        body = damaged_bytes(generator, body)
    content_type = FORM
    if 2 in kinds and generator.random() < 0.3:
        content_type = pick(generator, CONTENT_TYPES)
    return FormCase(path, content_type, split_randomly(generator, body))


def encode_form(parts: Sequence[Part]) -> bytes:
    """Return the whole body."""
    return b"".join(part.encode(BOUNDARY) for part in parts) + b"--%s--\r\n" % BOUNDARY


def damaged_image(generator: np.random.Generator, images: Sequence[bytes]) -> bytes:
    """Return one of `images` with changed bytes."""
    return damaged_bytes(generator, pick(generator, images))


def damaged_bytes(generator: np.random.Generator, content: bytes) -> bytes:
    """Apply one to six random changes: flip, set, delete, insert or repeat bytes, or cut off the end."""
    changed = bytearray(content)
    for _ in range(generator.integers(1, 7)):
        if changed:
            pick(generator, BYTE_CHANGES)(generator, changed)
    return bytes(changed)


def split_randomly(generator: np.random.Generator, body: bytes) -> tuple[bytes, ...]:
    """Split a body at up to four random places."""
    cuts = sorted(int(cut) for cut in generator.integers(0, len(body) + 1, generator.integers(0, 5)))
    return tuple(body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True))


def image_corpus(generator: np.random.Generator) -> list[bytes]:
    """Return small images in every accepted format and pixel mode."""
    pixels = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    corpus = [encode_image(colour, name) for name in FORMATS] + [
        encode_image(colour.convert("L"), name) for name in FORMATS
    ]
    corpus += [encode_image(colour.convert(mode), "PNG") for mode in ("1", "P", "LA", "RGBA", "I;16")]
    corpus += [encode_image(colour.convert("CMYK"), name) for name in ("JPEG", "TIFF")]
    corpus += [
        encode_image(colour, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    ]
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *corpus,
        encode_image(colour, "JPEG", exif=exif, progressive=True),
        encode_image(colour, "WEBP", lossless=True),
    ]


def encode_image(image: Image.Image, name: str, **options: Any) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _drop(generator: np.random.Generator, parts: list[Part]) -> None:
    if parts:
        del parts[int(generator.integers(len(parts)))]


def _repeat(generator: np.random.Generator, parts: list[Part]) -> None:
    if parts:
        parts.extend([pick(generator, parts)] * int(generator.integers(1, 90)))


def _rename(generator: np.random.Generator, parts: list[Part]) -> None:
    _replace(generator, parts, lambda part: Part(b'form-data; name="%s"' % pick(generator, NAMES), part.content))


def _change_head(generator: np.random.Generator, parts: list[Part]) -> None:
    _replace(generator, parts, lambda part: Part(pick(generator, HEADS), part.content, part.more))


def _change_content(generator: np.random.Generator, parts: list[Part]) -> None:
    _replace(generator, parts, lambda part: Part(part.head, pick(generator, VALUES), part.more))


def _change_bytes(generator: np.random.Generator, parts: list[Part]) -> None:
    _replace(generator, parts, lambda part: Part(part.head, damaged_bytes(generator, part.content), part.more))


def _shuffle(generator: np.random.Generator, parts: list[Part]) -> None:
    parts[:] = [parts[index] for index in generator.permutation(len(parts))]


def _replace(generator: np.random.Generator, parts: list[Part], changed: Callable[[Part], Part]) -> None:
    if parts:
        index = int(generator.integers(len(parts)))
        parts[index] = changed(parts[index])


def _flip_bit(generator: np.random.Generator, content: bytearray) -> None:
    content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))


def _set_byte(generator: np.random.Generator, content: bytearray) -> None:
    content[int(generator.integers(len(content)))] = pick(generator, INTERESTING)


def _delete_bytes(generator: np.random.Generator, content: bytearray) -> None:
    begin = int(generator.integers(len(content)))
    del content[begin : begin + int(generator.integers(1, 64))]


def _insert_bytes(generator: np.random.Generator, content: bytearray) -> None:
    begin = int(generator.integers(len(content)))
    content[begin:begin] = generator.bytes(int(generator.integers(1, 64)))


def _repeat_bytes(generator: np.random.Generator, content: bytearray) -> None:
    begin, length = int(generator.integers(len(content))), int(generator.integers(1, 256))
    content[begin:begin] = content[begin : begin + length] * int(generator.integers(1, 16))


def _truncate(generator: np.random.Generator, content: bytearray) -> None:
    del content[int(generator.integers(len(content))) :]


PART_CHANGES: Final = (_drop, _repeat, _rename, _change_head, _change_content, _change_bytes, _shuffle)
BYTE_CHANGES: Final = (
    _flip_bit,
    _flip_bit,
    _set_byte,
    _set_byte,
    _delete_bytes,
    _insert_bytes,
    _repeat_bytes,
    _truncate,
)
