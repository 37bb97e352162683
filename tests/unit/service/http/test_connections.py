"""Time limits of a connection, on an event loop whose clock the tests advance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from uvicorn.server import ServerState

from service.http.connections import LEFTOVER_S, MIN_IDLE_S, DeadlinedConfig, DeadlinedHttp, Deadlines

DEADLINES = Deadlines(head_s=10.0, reader_s=20.0, connections=3)
HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


class FakeClockLoop(asyncio.SelectorEventLoop):
    """Time passes only in `pass_s`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def run_ready(self) -> None:
        """Run all callbacks that are ready."""
        for _ in range(20):
            self.call_soon(self.stop)
            self.run_forever()

    def pass_s(self, seconds: float) -> None:
        self.run_ready()
        self.now += seconds
        self.run_ready()


class Wire(asyncio.Transport):
    """Records what is written. The test sets how much the client has not read."""

    def __init__(self, protocol: DeadlinedHttp) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.unread = 0
        self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True
        self.protocol.connection_lost(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        """Nothing is received unless a test feeds it."""

    def resume_reading(self) -> None:
        """Nothing is received unless a test feeds it."""


class Answering:
    """An application that responds after the body, responds at once, or waits. Counts disconnects."""

    def __init__(self) -> None:
        self.reads_body = True
        self.waits: asyncio.Event | None = None
        self.disconnected = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while self.reads_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected += 1
                return
            if not message["more_body"]:
                break
        if self.waits is not None:
            await self.waits.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def loop() -> Iterator[FakeClockLoop]:
    opened = FakeClockLoop()
    asyncio.set_event_loop(opened)
    yield opened
    asyncio.set_event_loop(None)
    opened.close()


@pytest.fixture
def app() -> Answering:
    return Answering()


@pytest.fixture
def connect(loop: FakeClockLoop, app: Answering) -> Iterator[Callable[[], Wire]]:
    config = DeadlinedConfig(app, DEADLINES, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    wires: list[Wire] = []

    def connected() -> Wire:
        protocol = DeadlinedHttp(config, state, {}, _loop=loop)
        wires.append(Wire(protocol))
        protocol.connection_made(wires[-1])
        return wires[-1]

    yield connected
    for wire in wires:
        if not wire.aborted:
            wire.protocol.connection_lost(None)
    loop.run_ready()


def test_an_idle_connection_is_closed(connect: Callable[[], Wire], loop: FakeClockLoop) -> None:
    wire = connect()
    loop.pass_s(9.9)
    assert not wire.closed
    loop.pass_s(0.2)
    assert wire.aborted


def test_headers_that_are_sent_slowly_are_closed_at_the_time_limit(
    connect: Callable[[], Wire], loop: FakeClockLoop
) -> None:
    wire = connect()
    for letter in HEAD[:10]:
        wire.protocol.data_received(bytes([letter]))
        loop.pass_s(1.1)
    assert wire.aborted


def test_slow_work_does_not_close_the_connection(
    connect: Callable[[], Wire], loop: FakeClockLoop, app: Answering
) -> None:
    app.waits = asyncio.Event()
    wire = connect()
    wire.protocol.data_received(HEAD + b"hello")
    loop.pass_s(1000)
    assert not wire.closed
    app.waits.set()
    loop.run_ready()
    assert wire.written.endswith(b"ok")


def test_each_request_on_a_connection_has_its_own_time_limit(connect: Callable[[], Wire], loop: FakeClockLoop) -> None:
    wire = connect()
    for _ in range(5):
        wire.protocol.data_received(HEAD + b"hello")
        loop.pass_s(4)
    assert not wire.closed
    for letter in HEAD[:5]:
        wire.protocol.data_received(bytes([letter]))
        loop.pass_s(1.9)
    assert not wire.closed
    loop.pass_s(0.5)
    assert wire.aborted


def test_a_connection_whose_body_continues_after_the_response_is_closed(
    connect: Callable[[], Wire], loop: FakeClockLoop, app: Answering
) -> None:
    app.reads_body = False
    wire = connect()
    wire.protocol.data_received(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    loop.run_ready()
    assert wire.written.endswith(b"ok")
    for _ in range(int(LEFTOVER_S) + 1):
        if not wire.closed:
            wire.protocol.data_received(b"5\r\nhello\r\n")
        loop.pass_s(1.0)
    assert wire.aborted


def test_a_response_that_is_not_read_is_dropped(connect: Callable[[], Wire], loop: FakeClockLoop) -> None:
    wire = connect()
    wire.unread = 100_000
    wire.protocol.pause_writing()
    loop.pass_s(9)
    wire.protocol.data_received(HEAD + b"hello")
    loop.pass_s(11.1)
    assert wire.aborted


def test_the_connection_of_a_client_that_catches_up_is_kept(
    connect: Callable[[], Wire], loop: FakeClockLoop, app: Answering
) -> None:
    app.waits = asyncio.Event()
    wire = connect()
    wire.protocol.data_received(HEAD + b"hello")
    for _ in range(4):
        wire.unread = 100_000
        wire.protocol.pause_writing()
        loop.pass_s(15)
        wire.unread = 0
        wire.protocol.resume_writing()
    loop.pass_s(100)
    assert not wire.closed
    app.waits.set()
    loop.run_ready()


def test_a_short_response_that_is_not_read_is_dropped_too(connect: Callable[[], Wire], loop: FakeClockLoop) -> None:
    wire = connect()
    wire.unread = 10
    wire.protocol.data_received(HEAD + b"hello")
    loop.pass_s(5.1)
    assert wire.closed  # idle for too long, but written bytes are unread
    assert not wire.aborted
    loop.pass_s(15)
    assert wire.aborted


def test_connections_beyond_the_limit_are_closed(connect: Callable[[], Wire], loop: FakeClockLoop) -> None:
    wires = [connect() for _ in range(5)]
    assert [wire.aborted for wire in wires] == [False, False, False, True, True]
    wires[0].protocol.connection_lost(None)
    assert not connect().aborted


def test_a_connection_beyond_the_limit_takes_the_place_of_the_one_that_was_idle_for_longest(
    connect: Callable[[], Wire], loop: FakeClockLoop
) -> None:
    first, second, third = connect(), connect(), connect()
    first.protocol.data_received(HEAD + b"hello")  # it waits from now on for its next request
    loop.pass_s(MIN_IDLE_S / 2)
    first.protocol.data_received(HEAD + b"hello")
    loop.pass_s(MIN_IDLE_S / 2)
    fourth = connect()
    assert [wire.aborted for wire in (first, second, third, fourth)] == [False, True, False, False]
    loop.pass_s(MIN_IDLE_S)
    fifth, sixth = connect(), connect()
    assert [wire.aborted for wire in (first, third, fourth, fifth, sixth)] == [True, True, False, False, False]


def test_a_connection_with_a_running_request_is_never_closed_for_another_one(
    connect: Callable[[], Wire], loop: FakeClockLoop, app: Answering
) -> None:
    app.waits = asyncio.Event()
    wires = [connect() for _ in range(3)]
    for wire in wires:
        wire.protocol.data_received(HEAD + b"hel")
    loop.pass_s(20)
    assert connect().aborted
    wires[1].protocol.data_received(b"lo")
    app.waits.set()
    loop.run_ready()
    loop.pass_s(MIN_IDLE_S)
    assert not connect().aborted
    assert [wire.aborted for wire in wires] == [False, True, False]


def test_a_connection_that_sends_its_headers_slowly_counts_as_idle(
    connect: Callable[[], Wire], loop: FakeClockLoop
) -> None:
    slow, *_ = [connect() for _ in range(3)]
    loop.pass_s(MIN_IDLE_S)
    slow.protocol.data_received(HEAD[:5])
    assert not connect().aborted
    assert slow.aborted


def test_a_closed_connection_leaves_no_timer(connect: Callable[[], Wire], loop: FakeClockLoop) -> None:
    wire = connect()
    wire.protocol.data_received(HEAD)
    wire.protocol.pause_writing()
    wire.protocol.connection_lost(None)
    loop.pass_s(1000)
    assert not wire.aborted
