"""Connections of the web server with time limits, and with a limit on the size of request headers.

uvicorn only closes idle connections, and httptools accepts headers of any size. This adds time limits for the headers
of a request, for what remains of a body after the response, and for reading a response.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.http.problems import BAD_REQUEST, HEAD_TOO_LONG, problem_response

Awaited = Literal["head", "leftover"]

HEAD_BYTES: Final = 16 * 1024
"""Largest request line and headers together; longer ones get a 400 and the connection is closed."""

LEFTOVER_S: Final = 5.0
"""How long a body may continue after the response, which the client may need to read before it stops sending."""

MIN_IDLE_S: Final = 1.0
"""A connection without a request may be closed after this time to make room for a new one."""


class HeadTooLong(ValueError):
    """The request line and headers are longer than `HEAD_BYTES`."""


class BoundedHttp(HttpToolsProtocol):
    """Bounds the request line and headers, including the trailers of a chunked body.

    The parser reports a header only when it is complete, so the bytes since the start of the head are counted as well.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._incomplete_bytes = 0
        self._in_head = True
        self._head_ended = False

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; reject a head that is too long."""
        self._head_ended = False
        super().data_received(data)
        if self._head_ended or not self._in_head:
            self._incomplete_bytes = 0
            return
        self._incomplete_bytes += len(data)
        if self._incomplete_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Respond with a problem instead of uvicorn's text, and close the connection."""
        if max(self._head_bytes, self._incomplete_bytes) > HEAD_BYTES:
            detail = f"the request line and headers have more than {HEAD_BYTES} bytes, which is the limit; send fewer"
            response = problem_response(HEAD_TOO_LONG, detail, "/")
        else:
            response = problem_response(BAD_REQUEST, "the request is not valid HTTP/1.1; check the client", "/")
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)]))
        self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line was received."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or trailer was received."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body follows."""
        self._in_head = False
        self._head_ended = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete. The bytes received now were mostly its body, not the next head."""
        super().on_message_complete()
        self._in_head = True
        self._head_ended = True

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > HEAD_BYTES:
            raise HeadTooLong(f"the request headers are longer than {HEAD_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Time limits of a connection in seconds, and the number of connections.

    Attributes:
        head_s: from the first byte of a request, or the start of the connection, to the end of the headers.
        reader_s: for the client to read what it has been sent.
        connections: open at the same time. A further one takes the place of the connection that has been without a
            request for longest, for `MIN_IDLE_S` at least; if there is none, the further one is closed.
    """

    head_s: float = 10.0
    reader_s: float = 30.0
    connections: int = 4096

    def of(self, awaited: Awaited) -> float:
        """Return the time limit for what is awaited."""
        return {"head": self.head_s, "leftover": LEFTOVER_S}[awaited]


class DeadlinedConfig(uvicorn.Config):
    """uvicorn's configuration with time limits; uvicorn passes it to its worker processes.

    Attributes:
        deadlines: time limits, and the number of connections.
        idle: connections without a request -> since when, on the clock of the event loop; the longest first.
    """

    def __init__(self, app: Any, deadlines: Deadlines, **options: Any) -> None:
        super().__init__(app, http=DeadlinedHttp, **options)
        self.deadlines = deadlines
        self.idle: OrderedDict[DeadlinedHttp, float] = OrderedDict()


class DeadlinedHttp(BoundedHttp):
    """A connection with the time limits of its `DeadlinedConfig`.

    After each event it looks at the server's state to find out what the client has to send next.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = cast(DeadlinedConfig, self.config)
        self._deadlines, self._idle = config.deadlines, config.idle
        self._awaited: tuple[Awaited, object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for headers. Beyond the limit, close an idle connection, or this one if none is idle."""
        super().connection_made(transport)
        if len(self.connections) > self._deadlines.connections and not self._make_room():
            transport.abort()
        else:
            self._idle[self] = self.loop.time()
            self._await("head")

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, if that is long enough."""
        oldest = next(iter(self._idle), None)
        if oldest is None or self.loop.time() - self._idle[oldest] < MIN_IDLE_S:
            return False
        del self._idle[oldest]
        oldest.transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        """Parse received bytes and update the timer."""
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        """Update the timer, and start to wait until the response is read."""
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        """The client reads more slowly than the server writes."""
        super().pause_writing()
        self._start_reader_timer()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._stop_reader_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._idle.pop(self, None)
        self._await(None)
        self._stop_reader_timer()
        super().connection_lost(exc)

    def _update(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first headers
        closing = self.transport.is_closing()
        if closing or (cycle is not None and not cycle.response_complete):
            self._idle.pop(self, None)
        else:
            self._idle.setdefault(self, self.loop.time())
        if self.transport.get_write_buffer_size() and (closing or (cycle is not None and cycle.response_complete)):
            self._start_reader_timer()
        self._await(None if closing else self._next(cycle))

    def _next(self, cycle: RequestResponseCycle | None) -> Awaited | None:
        """What the client has to send next; None if nothing, or if the connection is idle."""
        if cycle is None:
            return "head"
        if not cycle.response_complete:
            return None  # `LimitsMiddleware` limits the time of the body, and responds when it is over
        if cycle.more_body:
            return "leftover"
        return "head" if self.timeout_keep_alive_task is None else None

    def _await(self, awaited: Awaited | None) -> None:
        """Start the timer, unless it already runs for the same thing of the same request."""
        wanted = None if awaited is None else (awaited, self.cycle)
        if wanted == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._awaited = wanted
        self._timer = None if awaited is None else self.loop.call_later(self._deadlines.of(awaited), self._close)

    def _start_reader_timer(self) -> None:
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(self._deadlines.reader_s, self._close_unread)

    def _stop_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _close(self) -> None:
        self.transport.abort()

    def _close_unread(self) -> None:
        self._reader_timer = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()
