"""HTTP/1.1 on one connection: httptools' parser under uvicorn, with a bound on what a request may say before its body.

It knows bytes and connections, no resource. The parser itself would take headers without end.
"""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 16 * 1024
"""Request line and headers together; a longer head is answered with 400 and the connection closed."""


class HeadTooLong(ValueError):
    """Request line and headers together passed `HEAD_BYTES`."""


class BoundedHttp(HttpToolsProtocol):
    """Counts the request line and headers, those of a chunked body's end included, while the parser hands them over.

    A single header without an end never gets that far, so what has come since the head began is counted as well.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head_bytes = 0
        self._unended_bytes = 0
        self._in_head = True
        self._head_ended = False

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse a head that has not ended in time."""
        self._head_ended = False
        super().data_received(data)
        if self._head_ended or not self._in_head:
            self._unended_bytes = 0
            return
        self._unended_bytes += len(data)
        if self._unended_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The request's head is longer than {HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line came."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, came."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body follows."""
        self._in_head = False
        self._head_ended = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has come; the next one's head follows. What came just now was, for the most part, its body."""
        super().on_message_complete()
        self._in_head = True
        self._head_ended = True

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > HEAD_BYTES:
            raise HeadTooLong(f"the request's head is longer than {HEAD_BYTES} bytes")
