"""Serves gRPC: passes each call to an ASGI application as a request, with the method as path and the message as body.

So one application authenticates, limits, logs and answers both HTTP and gRPC. As over HTTP, a message is read only when
the application asks for it, after it has admitted the caller.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

import grpc
from grpc import StatusCode
from starlette.types import ASGIApp, Message, Scope

from service.errors import InvalidSettings

MAX_CALLS: Final = 512
"""Calls at the same time, per worker, including those that wait for their place. Further ones fail at once."""

MAX_DETAIL: Final = 1000
"""Characters of a status's message. Clients reject trailing metadata of more than 8 KiB, and then see another error."""

_FORWARDED: Final = frozenset({"authorization", "x-api-key", "traceparent", "tracestate"})
"""Metadata that becomes headers of the request."""

_RETURNED: Final = frozenset({"x-request-id", "retry-after", "traceresponse"})
"""Headers of the response that become trailing metadata."""

_OK: Final = 200
_MILLISECONDS: Final = 1000

STATUS_CODES: Final[Mapping[int, StatusCode]] = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.FAILED_PRECONDITION,
    413: StatusCode.RESOURCE_EXHAUSTED,
    415: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    507: StatusCode.RESOURCE_EXHAUSTED,
}
"""HTTP status of a problem -> status of gRPC. The code `deadline_passed` is DEADLINE_EXCEEDED."""


class GrpcServer:
    """A gRPC server in front of an ASGI application.

    Several processes may have servers at one port (SO_REUSEPORT); the system divides the connections among them.

    Args:
        app: answers `POST /SERVICE/METHOD`, whose body is the message, with a message or a problem (RFC 9457).
        service: full name of the service.
        methods: names of its methods, all with one message in each direction.
        max_message_bytes: the largest message that is received.
    """

    def __init__(self, app: ASGIApp, service: str, methods: Collection[str], max_message_bytes: int) -> None:
        self._app = app
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=MAX_CALLS,
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", max_message_bytes),
                # With fewer, further calls of one connection fail as refused streams.
                ("grpc.max_concurrent_streams", MAX_CALLS),
                ("grpc.server_handshake_timeout_ms", 10 * _MILLISECONDS),
                ("grpc.max_connection_idle_ms", 300 * _MILLISECONDS),
                ("grpc.per_message_decompression", 0),  # a small compressed message may be a huge one
            ],
        )
        handlers = {name: grpc.stream_unary_rpc_method_handler(self._handler(service, name)) for name in methods}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Start, and return the port.

        Raises:
            InvalidSettings: the port is not available.
        """
        name = f"[{host}]" if ":" in host else host
        try:
            port = self._server.add_insecure_port(f"{name}:{port}")
        except RuntimeError as error:
            raise InvalidSettings(f"cannot listen on {name}:{port} for gRPC; choose another --grpc-port") from error
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, and wait for the running ones. Those that take longer are cancelled."""
        await self._server.stop(grace_s)
        await asyncio.gather(*self._running)

    def _handler(self, service: str, method: str) -> object:
        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
            request = _Request(f"/{service}/{method}", messages, context)
            task = asyncio.create_task(self._run(request))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:  # the client or its connection is gone, its deadline has passed, or we stop
                request.gone.set()
                raise
            return await request.answer()

        return handle

    async def _run(self, request: _Request) -> None:
        await self._app(request.scope(), request.receive, request.send)


@dataclass(slots=True)
class _Request:
    """A call as a request of ASGI.

    Attributes:
        path: of the request.
        messages: yields the message of the caller.
        context: of the call.
        gone: set when the caller no longer waits.
    """

    path: str
    messages: AsyncIterator[bytes]
    context: grpc.aio.ServicerContext
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: bool = False
    _status: int = 0
    _headers: dict[str, str] = field(default_factory=dict)
    _body: bytes = b""

    def scope(self) -> Scope:
        """Return the scope. The Host is checked because of browsers, which cannot send such calls, so it is fixed."""
        metadata = self.context.invocation_metadata() or ()
        headers = [(name.encode(), str(value).encode("latin-1")) for name, value in metadata if name in _FORWARDED]
        headers += [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")]  # the size is not known yet
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": address(self.context.peer()),
            "server": None,
        }

    async def receive(self) -> Message:
        """Return the message, or wait until the caller is gone. A message that is too large does not arrive."""
        if not self._asked:
            self._asked = True
            async for message in self.messages:
                return {"type": "http.request", "body": message, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]
            }
        else:
            self._body += message.get("body", b"")

    async def answer(self) -> bytes:
        """Return the message of the response, or end the call with the status of its problem."""
        trailing = [(name, value) for name, value in self._headers.items() if name in _RETURNED]
        if self._status == _OK:
            self.context.set_trailing_metadata(trailing)
            return self._body
        code, detail, name = StatusCode.UNKNOWN, "the service did not respond", "internal_error"
        if self._body:
            problem = json.loads(self._body)
            name, detail = problem["code"], problem["detail"]
            code = STATUS_CODES.get(self._status, StatusCode.UNKNOWN)
            if len(detail) > MAX_DETAIL:
                detail = f"{detail[:MAX_DETAIL]}…"
        if name == "deadline_passed":
            code = StatusCode.DEADLINE_EXCEEDED
        await self.context.abort(code, detail, (*trailing, ("anole-code", name)))
        raise AssertionError("abort raises")


def address(peer: str) -> tuple[str, int]:
    """Return address and port of a peer as gRPC names it, such as "ipv4:127.0.0.1:5000" or "ipv6:%5B::1%5D:5000"."""
    host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0
