"""The server's protocol: headers are limited in size and time, bodies and responses in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.http.connections import HEAD_BYTES, BoundedHttp

Feed = Callable[..., bytes]
REQUEST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


class Wire(asyncio.Transport):
    """Records what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        """Nothing is received unless a test feeds it."""

    def resume_reading(self) -> None:
        """Nothing is received unless a test feeds it."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def feed(wire: Wire) -> Iterator[Feed]:
    """Return a function that sends bytes on one connection, piece by piece, and returns the output so far."""
    loop = asyncio.new_event_loop()
    config = uvicorn.Config(echo, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    protocol = BoundedHttp(config, ServerState(), {}, _loop=loop)

    async def send(*pieces: bytes) -> bytes:
        for data in pieces:
            protocol.data_received(data)
        await asyncio.gather(*protocol.tasks)
        return wire.written

    async def connect() -> None:
        protocol.connection_made(wire)

    async def leave() -> None:
        protocol.connection_lost(None)

    loop.run_until_complete(connect())
    yield lambda *pieces: loop.run_until_complete(send(*pieces))
    loop.run_until_complete(leave())
    loop.close()


def test_a_request_in_one_piece_gets_a_response(feed: Feed) -> None:
    assert feed(REQUEST).endswith(b"hello")


def test_many_pipelined_requests_are_not_mistaken_for_long_headers(feed: Feed, wire: Wire) -> None:
    request = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Padding: " + b"y" * 500 + b"\r\n\r\n"
    for _ in range(2 * HEAD_BYTES // len(request)):
        feed(request)
    assert wire.written.count(b"HTTP/1.1 200 ") == 2 * HEAD_BYTES // len(request)
    assert not wire.closed


def test_a_body_may_be_longer_than_the_limit_of_headers(feed: Feed) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (3 * HEAD_BYTES)
    assert feed(head + b"z" * (3 * HEAD_BYTES)).endswith(b"z" * HEAD_BYTES)


def test_the_end_of_a_body_does_not_count_as_headers_of_the_next_request(feed: Feed, wire: Wire) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (3 * HEAD_BYTES)
    assert feed(head, b"z" * (3 * HEAD_BYTES)).endswith(b"z" * HEAD_BYTES)
    assert not wire.closed
    assert feed(REQUEST).endswith(b"hello")


@pytest.mark.parametrize(
    "piece",
    [b"X-Y: " + b"z" * 1000 + b"\r\n", b"X: y\r\n" * 100, b"z" * 1000],
    ids=["long headers", "many headers", "endless header"],
)
def test_endless_headers_are_rejected_and_the_connection_is_closed(feed: Feed, wire: Wire, piece: bytes) -> None:
    feed(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Begins: y")
    sent = 0
    while not wire.closed and sent < 4 * HEAD_BYTES:
        feed(piece)
        sent += len(piece)
    assert wire.closed
    assert wire.written.startswith(b"HTTP/1.1 400 ")
    assert sent <= HEAD_BYTES + 2 * len(piece)


def problem(written: bytes) -> dict[str, Any]:
    """Return the problem of a response, and check its headers."""
    head, _, body = written.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/problem+json" in head
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head
    read: dict[str, Any] = json.loads(body)
    return read


@pytest.mark.parametrize(
    "data",
    [b"NONSENSE\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n"],
    ids=["words", "TLS", "version", "header"],
)
def test_bytes_that_are_not_http_get_a_problem(feed: Feed, wire: Wire, data: bytes) -> None:
    written = feed(data)
    assert wire.closed
    assert (problem(written)["status"], problem(written)["code"]) == (400, "bad_request")


@pytest.mark.parametrize("piece", [b"z" * 1000, b"X: y\r\n" * 200], ids=["one header", "many headers"])
def test_headers_that_are_too_long_get_a_problem_that_names_the_limit(feed: Feed, wire: Wire, piece: bytes) -> None:
    feed(b"GET /x HTTP/1.1\r\nHost: a\r\nX: y")
    while not wire.closed:
        feed(piece)
    assert problem(wire.written)["code"] == "head_too_long"
    assert str(HEAD_BYTES) in problem(wire.written)["detail"]


def test_an_endless_request_line_is_rejected(feed: Feed, wire: Wire) -> None:
    feed(b"GET /")
    for _ in range(HEAD_BYTES // 1000 + 2):
        if not wire.closed:
            feed(b"a" * 1000)
    assert wire.written.startswith(b"HTTP/1.1 400 ")


def test_endless_blank_lines_before_a_request_are_rejected(feed: Feed, wire: Wire) -> None:
    for _ in range(HEAD_BYTES // 1000 + 2):
        if not wire.closed:
            feed(b"\r\n" * 500)
    assert wire.closed
