"""Raw sockets against `anole serve`: requests without a key, endless or slow. Other requests must not be affected."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import STOP_LIMIT_S, Process, serving
from tests.generated import tiny_checkpoint_in

pytestmark = pytest.mark.slow

KEY = f"anole_e2ee2ee2_{'k' * 43}"
AUTHORISED = f"X-API-Key: {KEY}\r\n".encode()
FORM = b"Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n"
FILE = b"--x\r\nContent-Disposition: form-data; name=samples; filename=a\r\n\r\n"
MEBIBYTE = 1024 * 1024
HEAD_S = BODY_S = 2.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service that requires a key, with short time limits."""
    folder = tmp_path_factory.mktemp("guarded")
    environment = {"ANOLE_DEMO": "false", "ANOLE_BOOTSTRAP_KEY": KEY}
    with serving(
        folder / "data",
        tiny_checkpoint_in(folder),
        ANOLE_BODY_S=str(BODY_S),
        ANOLE_BODY_IDLE_S=str(BODY_S),
        **environment,
    ) as process:
        yield process


def connected(service: Process) -> socket.socket:
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname, address.port), timeout=STOP_LIMIT_S)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def until_closed(raw: socket.socket) -> bytes:
    """Return everything that is received until the connection is closed."""
    received = b""
    while True:
        try:
            piece = raw.recv(65536)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece


def send_until(raw: socket.socket, until: float) -> None:
    """Send chunks of a body until the given time."""
    while time.monotonic() < until:
        raw.sendall(chunk(bytes(65536)))


def spooled(service: Process) -> int:
    """Return how many unnamed files the service has open, to which uploads are spooled."""
    links = []
    for entry in Path(f"/proc/{service.process.pid}/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return sum(link.endswith("(deleted)") for link in links)


def alive(service: Process) -> bool:
    with httpx.Client(base_url=service.url, headers={"X-API-Key": KEY}) as web:
        return web.get("/clients").status_code == 200


def test_an_endless_body_without_a_key_is_rejected_unread_and_then_closed(guarded: Process) -> None:
    with closing(connected(guarded)) as raw:
        raw.sendall(b"POST /adapt HTTP/1.1\r\nHost: a\r\n" + FORM + b"\r\n")
        assert raw.recv(12) == b"HTTP/1.1 401"
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            send_until(raw, time.monotonic() + STOP_LIMIT_S)
        assert spooled(guarded) == 0
    assert alive(guarded)


def test_expect_100_continue_is_not_granted_without_a_key(guarded: Process) -> None:
    with closing(connected(guarded)) as raw:
        raw.sendall(b"POST /adapt HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + FORM + b"\r\n")
        assert raw.recv(12) == b"HTTP/1.1 401"


@pytest.mark.parametrize(
    "begun", [b"", b"G", b"GET /clients HTTP/1.1\r\nHost: a\r\nX-A: "], ids=["none", "letter", "part"]
)
def test_incomplete_headers_are_closed_at_the_time_limit(guarded: Process, begun: bytes) -> None:
    with closing(connected(guarded)) as raw:
        raw.sendall(begun)
        began = time.monotonic()
        assert until_closed(raw) == b""
        assert time.monotonic() - began >= HEAD_S / 2
    assert alive(guarded)


def test_an_incomplete_body_is_closed_at_the_time_limit_and_its_files_are_freed(guarded: Process) -> None:
    with closing(connected(guarded)) as raw:
        raw.sendall(b"POST /adapt HTTP/1.1\r\nHost: a\r\n" + AUTHORISED + FORM + b"\r\n")
        raw.sendall(chunk(FILE + bytes(3 * MEBIBYTE)))
        assert until_closed(raw).startswith(b"HTTP/1.1 408 ")
    assert nothing_spooled_soon(guarded)
    assert alive(guarded)


def test_a_disconnect_during_an_upload_leaves_nothing(guarded: Process) -> None:
    for _ in range(5):
        with closing(connected(guarded)) as raw:
            raw.sendall(b"POST /adapt HTTP/1.1\r\nHost: a\r\n" + AUTHORISED + FORM + b"\r\n")
            raw.sendall(chunk(FILE + bytes(2 * MEBIBYTE)))
    assert alive(guarded)
    assert spooled(guarded) == 0  # uploads stay in memory
    with httpx.Client(base_url=guarded.url, headers={"X-API-Key": KEY}) as web:
        assert web.get("/clients").json() == {"clients": []}


def nothing_spooled_soon(service: Process) -> bool:
    until = time.monotonic() + STOP_LIMIT_S
    while spooled(service) and time.monotonic() < until:
        alive(service)
    return spooled(service) == 0


@pytest.mark.parametrize(
    "head",
    [
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"GET /clients HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /clients HTTP/1.1\r\n\r\n",
        b"GET /clients HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /clients HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET /clients\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["two lengths", "lengths that differ", "two hosts", "no host", "blank", "bare newline", "no version", "tls"],
)
def test_ambiguous_headers_are_rejected_and_the_connection_is_closed(guarded: Process, head: bytes) -> None:
    hidden = b"GET /clients HTTP/1.1\r\nHost: a\r\n" + AUTHORISED + b"\r\n"
    with closing(connected(guarded)) as raw:
        raw.sendall(head.replace(b"\r\n\r\n", b"\r\n" + AUTHORISED + b"\r\n") + hidden)
        responses = until_closed(raw)
    assert responses.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))
    assert responses.count(b"HTTP/1.1 ") == 1  # the request hidden in the body gets no response
    assert alive(guarded)


def test_each_pipelined_request_needs_its_key(guarded: Process) -> None:
    with closing(connected(guarded)) as raw:
        good = b"GET /clients HTTP/1.1\r\nHost: a\r\n" + AUTHORISED + b"\r\n"
        raw.sendall(
            good
            + b"GET /clients HTTP/1.1\r\nHost: a\r\n\r\n"
            + good.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        responses = until_closed(raw)
    statuses = [piece[:3] for piece in responses.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"401", b"200"]


def test_no_log_line_contains_the_key(guarded: Process) -> None:
    assert alive(guarded)
    assert not any("k" * 43 in line for line in guarded.printed)
