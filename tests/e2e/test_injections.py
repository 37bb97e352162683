"""Malicious text in every input of a running service: its log, headers and folder must not be affected."""

from __future__ import annotations

import io
import json
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.e2e.conftest import Process, serving
from tests.generated import striped, tiny_checkpoint_in

pytestmark = pytest.mark.slow

SECRET = "k" * 43
KEY = f"anole_injected_{SECRET}"
FORGED = '\r\n{"event":"forged","level":"info"}\r\n\x1b[31mred\x1b[0m\x00\u2028'
HEADER = "x\r\nX-Injected: 1\r\n\r\n<html>"
TRAVERSALS = ["../outside", "..%2foutside", "%2e%2e/outside", "/tmp/outside", "..\\outside", "a\x00b", "C:\\outside"]
PICTURES = striped(2, 4) + striped(2, 13)
LABELS = ["fine", "fine", "coarse", "coarse"]
MARK = b"bytes of an image: MARKED-PIXELS"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service that requires a key and logs JSON, in a separate folder."""
    folder = tmp_path_factory.mktemp("injected")
    environment = {"ANOLE_BOOTSTRAP_KEY": KEY, "ANOLE_DEMO": "false"}
    with serving(folder / "store" / "data", tiny_checkpoint_in(folder), **environment) as process:
        yield process


@pytest.fixture
def web(service: Process) -> Iterator[httpx.Client]:
    """A client with the key."""
    with httpx.Client(base_url=service.url, headers={"X-API-Key": KEY}) as web:
        yield web


def logged(service: Process, web: httpx.Client) -> list[str]:
    """Return the log lines up to that of one more request."""
    last = web.get("/models").headers["x-request-id"]
    while not any(last in line for line in service.printed):
        assert service.process.poll() is None
        web.get("/livez")
    return [line for line in service.printed if not line.startswith((" ", "Anole", "\n"))]


def adapt(web: httpx.Client, names: list[str], **fields: str | list[str]) -> httpx.Response:
    files = [("samples", (name, content)) for name, content in zip(names, PICTURES, strict=True)]
    return web.post("/adapt", data={"client": "line", "labels": LABELS, **fields}, files=files)


def test_no_input_can_forge_a_log_line(service: Process, web: httpx.Client) -> None:
    adapt(web, [f"{index}{FORGED}" for index in range(4)], publish="always")
    adapt(web, list("1234"), labels=[FORGED, "a", "b", "c"])
    adapt(web, list("1234"), client=FORGED)
    web.get(f"/clients/{quote(FORGED)}")
    web.get("/clients", params={"q": FORGED})
    web.request("GET", "/models", headers={"User-Agent": "a\x1b[31m", "X-Request-ID": "forged", "Idempotency-Key": "a"})
    web.post("/predict", params={"client": "line"}, content=MARK, headers={"Content-Type": "image/png"})
    web.request("BREW", f"/{quote(FORGED)}")
    lines = logged(service, web)
    assert len(lines) > 8
    for line in lines:
        assert json.loads(line)["event"] != "forged"
        assert "\x1b" not in line


def test_no_input_can_forge_a_header(service: Process, web: httpx.Client) -> None:
    assert adapt(web, list("1234"), publish="always").status_code == 201
    responses = [
        web.get(f"/clients/{quote(HEADER, safe='')}"),
        web.get(f"/clients/line/versions/{quote(HEADER, safe='')}/weights"),
        web.get(f"/{quote(HEADER, safe='')}"),
        web.get("/models", params={"x": HEADER}),
        adapt(web, [HEADER, "b", "c", "d"]),
        adapt(web, list("1234"), labels=[HEADER, "a", "b", "c"]),
        web.get("/clients/line/versions/1/weights"),
    ]
    for response in responses:
        assert "x-injected" not in response.headers
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"].split(";")[0] in {
            "application/json", "application/problem+json", "application/octet-stream", "application/vnd.safetensors",
        }  # fmt: skip


@pytest.mark.parametrize("line", [b"X-A: b\rX-Injected: 1", b"X-A: b\nc", b"X-A\x00: b", b" folded: b"])
def test_headers_with_line_breaks_or_nul_are_rejected(service: Process, line: bytes) -> None:
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as raw:
        raw.sendall(b"GET /models HTTP/1.1\r\nHost: a\r\nX-API-Key: " + KEY.encode() + b"\r\n" + line + b"\r\n\r\n")
        assert raw.recv(64).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_path_as_a_name_writes_nothing_outside_the_store(service: Process, web: httpx.Client, name: str) -> None:
    folder = store_of(service)
    before = set(folder.parent.iterdir())
    adapt(web, [name, "b", "c", "d"])
    adapt(web, list("1234"), client=name)
    adapt(web, list("1234"), labels=[name, name, "a", "a"])
    web.put(f"/clients/line/aliases/{quote(name, safe='')}", json={"version": 1})
    web.get(f"/docs/{quote(name, safe='')}")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index, content in enumerate(PICTURES):
            archive.writestr(f"{name.replace(chr(0), '%00')}/{index % 2}/{index}.png", content)
    web.post("/adapt", data={"client": "line"}, files=[("archive", (name, packed.getvalue()))])
    assert set(folder.parent.iterdir()) == before
    assert not [path for path in folder.rglob("*") if "outside" in path.name]
    assert not Path("/tmp/outside").exists()


def test_a_link_in_an_archive_is_an_ordinary_file(service: Process, web: httpx.Client) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        link = zipfile.ZipInfo("fine/link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("coarse/1.png", PICTURES[2])
    response = web.post("/adapt", data={"client": "linked"}, files=[("archive", ("a.zip", packed.getvalue()))])
    assert (response.status_code, response.json()["code"]) == (415, "image_format_unsupported")
    assert "root:" not in response.text


def test_no_log_line_or_response_contains_keys_or_pixels(service: Process, web: httpx.Client) -> None:
    for headers in ({"X-API-Key": KEY + "x"}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Basic {KEY}"}):
        response = httpx.get(f"{service.url}/clients?key={KEY}", headers=headers)
        assert response.status_code == 401
        assert SECRET not in response.text
    response = web.post("/predict", params={"client": "line"}, content=MARK, headers={"Content-Type": "image/png"})
    assert response.status_code in {404, 415, 422}
    output = "".join(logged(service, web)) + response.text
    assert SECRET not in output
    assert "MARKED-PIXELS" not in output


def store_of(service: Process) -> Path:
    """Return the folder of the store, which the service prints at start."""
    (line,) = [line for line in service.printed if line.strip().startswith("store ")]
    return Path(line.split()[-1])
