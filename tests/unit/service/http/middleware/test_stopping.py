"""Requests that are still running when the time to stop is over."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from service.http.middleware.logging import RequestMiddleware
from service.telemetry import Telemetry

SCOPE = {"type": "http", "method": "POST", "path": "/adapt", "headers": []}


def cancelled(*before: dict[str, Any]) -> list[Any]:
    """Return what a request sends that is cancelled after it has sent `before`, as uvicorn cancels requests."""
    sent: list[Any] = []

    async def never_ends(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        await asyncio.Event().wait()

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def serve() -> None:
        task = asyncio.create_task(RequestMiddleware(never_ends, Telemetry())(SCOPE, receive, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(serve())
    return sent


def test_a_request_that_outlasts_the_time_to_stop_gets_a_problem_and_no_bare_500() -> None:
    start, body = cancelled()
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    problem = json.loads(body["body"])
    assert (start["status"], headers["content-type"]) == (503, "application/problem+json")
    assert (problem["code"], headers["retry-after"]) == ("overloaded", "1")
    assert "ANOLE_STOP_S" in problem["detail"]
    assert "Idempotency-Key" in problem["detail"]
    assert headers["x-request-id"]


def test_a_response_that_has_begun_is_not_followed_by_another_one() -> None:
    start = {"type": "http.response.start", "status": 200, "headers": []}
    assert [message["type"] for message in cancelled(start)] == ["http.response.start"]
