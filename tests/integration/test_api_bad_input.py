"""Invalid input gets a code and the name of the part and changes nothing. Unusual but valid images are accepted."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings
from tests.generated import striped
from tests.in_process import Web, started

GOOD = striped(1, 4)[0]
OTHER = striped(1, 13)[0]


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int = 20_000) -> bytes:
    """Return a PNG whose header claims `side` x `side` grey pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(side))) + chunk(b"IEND", b"")
    )


def noise(mode: str) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


BAD_FILES = {
    "empty": (b"", 422, "image_empty"),
    "truncated png": (GOOD[: len(GOOD) // 2], 422, "image_corrupt"),
    "truncated jpeg": (encoded(noise("RGB"), "JPEG")[:-200], 422, "image_corrupt"),
    "text named png": (b"not an image in spite of its name\n" * 20, 415, "image_format_unsupported"),
    "gif": (encoded(noise("P"), "GIF"), 415, "image_format_unsupported"),
    "pdf": (b"%PDF-1.7\n" + b"0" * 100, 415, "image_format_unsupported"),
    "bomb": (bomb(), 413, "image_too_large"),
    "one pixel": (encoded(Image.new("L", (1, 1))), 422, "image_too_small"),
    "thread": (encoded(Image.new("L", (1, 20_000))), 413, "image_too_large"),
}

GOOD_FILES = {
    "16 bit": encoded(Image.fromarray((np.arange(1600, dtype=np.uint16) * 40).reshape(40, 40))),
    "palette": encoded(noise("P")),
    "cmyk": encoded(noise("CMYK"), "JPEG"),
    "alpha": encoded(noise("RGBA")),
    "grey with alpha": encoded(noise("LA")),
    "black and white": encoded(noise("1")),
    "bmp": encoded(noise("RGB"), "BMP"),
    "webp": encoded(noise("RGB"), "WEBP"),
    "tiff": encoded(noise("RGB"), "TIFF"),
}


def stored_files(settings: Settings) -> dict[str, bytes]:
    """Return the content of every file of the store, without SQLite's journal files."""
    files = (path for path in sorted(settings.data.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files if not path.name.endswith(("-journal", "-wal", "-shm"))}


def adapt(web: Web, contents: list[bytes], labels: list[str], **fields: Any) -> Any:
    files = [("samples", (f"part-{index}.png", content)) for index, content in enumerate(contents)]
    form = {"client": "line", "labels": labels, "publish": "always", **fields}
    return web("POST", "/adapt", data=form, files=files)


@pytest.fixture(scope="module")
def adapted(shared_settings: Settings) -> Iterator[Web]:
    """Start a service with a live version of the client `line`, for tests that leave that client as it is."""
    with started(create_app(shared_settings, bootstrap.build)) as web:
        assert adapt(web, [GOOD, OTHER], ["fine", "coarse"]).status_code == 201
        yield web


@pytest.mark.parametrize("what", BAD_FILES)
def test_adapt_names_an_invalid_file_and_changes_nothing(adapted: Web, shared_settings: Settings, what: str) -> None:
    content, status, code = BAD_FILES[what]
    before = stored_files(shared_settings)
    response = adapt(adapted, [GOOD, content], ["fine", "coarse"])
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json()["detail"].startswith("part-1.png (class coarse): ")
    assert stored_files(shared_settings) == before


@pytest.mark.parametrize("what", BAD_FILES)
def test_predict_names_an_invalid_file(adapted: Web, what: str) -> None:
    content, status, code = BAD_FILES[what]
    files = [("images", ("good.png", GOOD)), ("images", ("bad.png", content))]
    response = adapted("POST", "/predict", data={"client": "line"}, files=files)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json()["detail"].startswith("bad.png: ")


@pytest.mark.parametrize("what", GOOD_FILES)
def test_an_unusual_but_valid_image_is_accepted(adapted: Web, what: str) -> None:
    files = [("images", ("odd", GOOD_FILES[what]))]
    assert adapted("POST", "/predict", data={"client": "line"}, files=files).status_code == 200
    client = what.replace(" ", "-")
    assert adapt(adapted, [GOOD, OTHER], ["fine", "coarse"], client=client).status_code == 201
    assert adapt(adapted, [GOOD_FILES[what]], ["odd"], client=client).status_code == 201


def test_a_rotated_photograph_gets_the_same_prediction_as_the_upright_one(adapted: Web) -> None:
    upright = noise("L")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [("images", ("upright", encoded(upright))), ("images", ("turned", encoded(turned, exif=exif)))]
    first, second = adapted("POST", "/predict", data={"client": "line"}, files=files).json()["predictions"]
    assert first["scores"] == second["scores"]


BAD_REQUESTS: dict[str, tuple[list[bytes], list[str], dict[str, Any], int, str, str]] = {
    "too few labels": ([GOOD, OTHER], ["fine"], {}, 422, "label_count_mismatch", "2 samples"),
    "too many labels": ([GOOD, OTHER], ["fine", "coarse", "fine"], {}, 422, "label_count_mismatch", "3 labels"),
    "no labels": ([GOOD, OTHER], [], {}, 422, "label_count_mismatch", "0 labels"),
    "too few parts": ([GOOD, OTHER], ["fine", "coarse"], {"parts": ["1"]}, 422, "part_count_mismatch", "1 parts"),
    "empty part": ([GOOD, OTHER], ["fine", "coarse"], {"parts": ["1", " "]}, 422, "invalid_name", "part is empty"),
    "part too long": ([GOOD, OTHER], ["fine", "coarse"], {"parts": ["1", "x" * 65]}, 422, "invalid_name", "65"),
    "one picture with two labels": ([GOOD, OTHER, GOOD], ["fine", "coarse", "coarse"], {}, 422, "conflicting_labels",
        "'part-0.png' with the label 'fine' and 'part-2.png' with the label 'coarse'"),
    "one class": ([GOOD, OTHER], ["same", "same"], {"mode": "replace"}, 422, "too_few_classes", "'same'"),
    "empty label": ([GOOD, OTHER], ["fine", " "], {}, 422, "invalid_name", "label"),
    "label with a bell": ([GOOD, OTHER], ["fine", "a\x07b"], {}, 422, "invalid_name", "label"),
    "label too long": ([GOOD, OTHER], ["fine", "x" * 65], {}, 422, "invalid_name", "65"),
    "rate out of range": (
        [GOOD, OTHER], ["fine", "coarse"], {"learning_rate": "1e30"}, 422, "field_invalid", "'learning_rate'",
    ),
    "steps too many": ([GOOD, OTHER], ["fine", "coarse"], {"steps": "101"}, 422, "field_invalid", "'steps'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_an_invalid_request_changes_nothing(adapted: Web, shared_settings: Settings, what: str) -> None:
    contents, labels, fields, status, code, named = BAD_REQUESTS[what]
    before = stored_files(shared_settings)
    response = adapt(adapted, contents, labels, **fields)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert named in response.json()["detail"]
    assert stored_files(shared_settings) == before
    assert adapted("GET", "/clients/line").json()["versions"] == 1


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"client": "missing"}, 404, "unknown_client"),
        ({"client": "line", "version": "7"}, 404, "unknown_version"),
        ({"client": "line", "alias": "best"}, 404, "unknown_alias"),
    ],
)
def test_unknown_resources_are_answered_with_404(adapted: Web, fields: dict[str, str], status: int, code: str) -> None:
    response = adapted("POST", "/predict", data=fields, files=[("images", ("a.png", GOOD))])
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_failed_first_request_creates_no_client(web: Web, settings: Settings) -> None:
    assert adapt(web, [GOOD, b""], ["fine", "coarse"]).status_code == 422
    assert web("GET", "/clients").json() == {"clients": []}
    assert list(Path(settings.data / "blobs").iterdir()) == []
