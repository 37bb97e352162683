"""Connections with deadlines: whoever sends or reads too slowly is closed, and so are connections beyond a number.

The web server has a deadline for idle connections alone. This adds, under one timer a connection: for a request's head,
for its body, for what is still sent of a body after the answer, and for the reading of an answer. It looks at the
server's own state after each event and knows no parser and no resource.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.protocol import BoundedHttp

Awaited = Literal["head", "body", "leftover"]

LEFTOVER_S: Final = 5.0
"""So long a body may go on after its answer, which the other side may need to see before it stops sending."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds, and a number.

    Attributes:
        head_s: from the first byte of a request, or from the connection, to the end of its headers.
        body_s: from there to the end of its body.
        reader_s: for the other side to read what is written faster than it reads.
        connections: open at the same time; one more is closed at once.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    reader_s: float = 30.0
    connections: int = 4096

    def of(self, awaited: Awaited) -> float:
        """The deadline for what is awaited."""
        return {"head": self.head_s, "body": self.body_s, "leftover": LEFTOVER_S}[awaited]


class DeadlinedConfig(uvicorn.Config):
    """The web server's settings, with deadlines; worker processes get them with it."""

    def __init__(self, app: Any, deadlines: Deadlines, **said: Any) -> None:
        super().__init__(app, http=DeadlinedHttp, **said)
        self.deadlines = deadlines


class DeadlinedHttp(BoundedHttp):
    """One connection under the deadlines of its `DeadlinedConfig`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._deadlines = cast(DeadlinedConfig, self.config).deadlines
        self._awaited: tuple[Awaited, object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head, or close what is one too many."""
        super().connection_made(transport)
        if len(self.connections) > self._deadlines.connections:
            transport.abort()
        else:
            self._await("head")

    def data_received(self, data: bytes) -> None:
        """Parse what came, then see what is awaited now."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """See what is awaited now, and that the answer is read."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """The other side reads more slowly than is written."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._expect_no_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget every deadline."""
        self._await(None)
        self._expect_no_reading()
        super().connection_lost(exc)

    def _look(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first head has come
        closing = self.transport.is_closing()
        if self.transport.get_write_buffer_size() and (closing or (cycle is not None and cycle.response_complete)):
            self._expect_reading()
        self._await(None if closing else self._next(cycle))

    def _next(self, cycle: RequestResponseCycle | None) -> Awaited | None:
        """What the other side has to send now; None while it has to send nothing, or is idle."""
        if cycle is None:
            return "head"
        if not cycle.response_complete:
            return "body" if cycle.more_body else None
        if cycle.more_body:
            return "leftover"
        return "head" if self.timeout_keep_alive_task is None else None

    def _await(self, awaited: Awaited | None) -> None:
        """Start the deadline for it, unless it is the same as before of the same request."""
        wanted = None if awaited is None else (awaited, self.cycle)
        if wanted == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._awaited = wanted
        self._timer = None if awaited is None else self.loop.call_later(self._deadlines.of(awaited), self._close)

    def _expect_reading(self) -> None:
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(self._deadlines.reader_s, self._close_unread)

    def _expect_no_reading(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _close(self) -> None:
        self.transport.abort()

    def _close_unread(self) -> None:
        self._reader_timer = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()
