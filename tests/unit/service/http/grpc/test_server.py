"""gRPC in front of an application of ASGI: answers, problems, calls that are given up, and the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from starlette.types import Receive, Scope, Send

from service.errors import InvalidSettings
from service.http.grpc.server import STATUS_CODES, GrpcServer, address
from service.http.problems import PROBLEMS

METHOD = "/test.Echo/Say"
LIMIT_S = 30
MAX_BYTES = 1000


class Echo:
    """Responds with the message, or with what a test sets; records what it receives.

    Attributes:
        problem: status and code of the problem that it responds with.
        detail: its text.
        begun: set when it has received a message.
        go_on: it waits for this before it responds.
        received: scope and messages.
    """

    def __init__(self) -> None:
        self.problem: tuple[int, str] | None = None
        self.detail = "why it failed"
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()
        self.received: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.received = [scope, await receive()]
        self.begun.set()
        if not self.go_on.is_set():
            disconnect = asyncio.ensure_future(receive())
            go_on = asyncio.ensure_future(self.go_on.wait())
            await asyncio.wait({disconnect, go_on}, return_when=asyncio.FIRST_COMPLETED)
            if disconnect.done():
                self.received.append(disconnect.result())
                go_on.cancel()
                return
            disconnect.cancel()
        status, body = 200, self.received[1].get("body", b"")
        if self.problem is not None:
            status, code = self.problem
            body = json.dumps({"code": code, "detail": self.detail}).encode()
        headers = [(b"X-Request-ID", b"7"), (b"Retry-After", b"1"), (b"Content-Type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(app: Echo) -> AsyncIterator[tuple[GrpcServer, Any]]:
    """Serve the application, and yield the server and what calls it."""
    server = GrpcServer(app, "test.Echo", ["Say"], MAX_BYTES)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield server, channel.unary_unary(METHOD)
    await server.stop(0)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, LIMIT_S))


async def failed(call: Awaitable[bytes]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_a_call_is_a_request_with_the_message_as_its_body() -> None:
    async def main() -> None:
        app = Echo()
        async with served(app) as (_, say):
            call = say(b"hello", metadata=[("authorization", "Bearer KEY"), ("x-other", "1")])
            assert await call == b"hello"
            trailing = dict(await call.trailing_metadata())
        scope, body = app.received
        assert (scope["method"], scope["path"], scope["client"][0]) == ("POST", METHOD, "127.0.0.1")
        headers = dict(scope["headers"])
        assert headers == {b"authorization": b"Bearer KEY", b"host": b"localhost", b"transfer-encoding": b"chunked"}
        assert body == {"type": "http.request", "body": b"hello", "more_body": False}
        assert trailing == {"x-request-id": "7", "retry-after": "1"}

    run(main())


def test_a_problem_is_a_status_with_its_text_and_code() -> None:
    async def main() -> None:
        app = Echo()
        async with served(app) as (_, say):
            for problem, code in {
                (404, "unknown_client"): StatusCode.NOT_FOUND,
                (503, "overloaded"): StatusCode.UNAVAILABLE,
                (503, "deadline_passed"): StatusCode.DEADLINE_EXCEEDED,
            }.items():
                app.problem = problem
                error = await failed(say(b""))
                assert (error.code(), error.details()) == (code, "why it failed")
                assert dict(error.trailing_metadata())["anole-code"] == problem[1]

    run(main())


def test_a_problem_with_a_long_text_is_cut_and_arrives() -> None:
    async def main() -> None:
        app = Echo()
        app.problem, app.detail = (422, "parameter_invalid"), "an input is wrong; " * 5000
        async with served(app) as (_, say):
            error = await failed(say(b""))
        assert error.code() is StatusCode.INVALID_ARGUMENT
        assert str(error.details()) == app.detail[:1000] + "…"

    run(main())


def test_many_calls_at_once_share_a_connection() -> None:
    async def main() -> None:
        async with served(Echo()) as (_, say):
            assert set(await asyncio.gather(*[_bytes(say(b"hello")) for _ in range(200)])) == {b"hello"}

    run(main())


def test_every_problem_of_a_prediction_has_a_status() -> None:
    others = {412}  # conditions on aliases
    assert {problem.status for problem in PROBLEMS.values()} - others <= STATUS_CODES.keys()


def test_a_call_that_is_given_up_is_a_disconnect() -> None:
    async def main() -> None:
        app = Echo()
        app.go_on.clear()
        async with served(app) as (_, say):
            error = await failed(say(b"hello", timeout=0.2))
            assert error.code() is StatusCode.DEADLINE_EXCEEDED
            while len(app.received) < 3:
                await asyncio.sleep(0)
        assert app.received[2] == {"type": "http.disconnect"}

    run(main())


def test_a_message_that_is_too_large_does_not_arrive() -> None:
    async def main() -> None:
        app = Echo()
        async with served(app) as (_, say):
            error = await failed(say(b"a" * (MAX_BYTES + 1)))
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED
            await app.begun.wait()
        assert app.received[1]["type"] == "http.disconnect"

    run(main())


def test_a_running_call_is_answered_before_the_server_stops_and_a_new_one_is_not() -> None:
    async def main() -> None:
        app = Echo()
        app.go_on.clear()
        async with served(app) as (server, say):
            running = asyncio.ensure_future(_bytes(say(b"hello")))
            await app.begun.wait()
            stopping = asyncio.create_task(server.stop(LIMIT_S))
            await asyncio.sleep(0)
            refused = (await failed(say(b"late"))).code()
            assert refused in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)  # the latter if it crossed the goodbye
            app.go_on.set()
            assert await running == b"hello"
            await stopping

    run(main())


async def _bytes(call: Awaitable[bytes]) -> bytes:
    return await call


def test_an_unavailable_address_is_reported() -> None:
    async def main() -> None:
        with pytest.raises(InvalidSettings, match=r"cannot listen on 192\.0\.2\.1:0 for gRPC"):
            await GrpcServer(Echo(), "test.Echo", ["Say"], MAX_BYTES).start("192.0.2.1", 0)

    run(main())


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        ("ipv4:127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("ipv6:%5B::1%5D:5000", ("::1", 5000)),
        ("unix:", ("", 0)),
    ],
)
def test_the_address_of_a_peer(peer: str, found: tuple[str, int]) -> None:
    assert address(peer) == found
