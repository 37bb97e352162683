"""A service with one job that gives scripted responses, for either client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import anyio.lowlevel
import httpx

from service.client import AdaptResponse, AsyncClient, Client, Job, LabelledFile

SAMPLES = [LabelledFile(label, "1.png", b"\x89PNG") for label in ("good", "bad")]
PATH = "/jobs/5f1c"


def adapted(version: int = 1) -> dict[str, Any]:
    gate = {"decision": "publish", "reasons": ["it is good"], "floor": None, "dropped": []}
    unknown = ("support_accuracy", "estimated_accuracy", "interval", "temperature", "unknown_threshold", "suspects")
    seconds = dict.fromkeys(("decode", "adapt", "examine", "store", "total"), 0.1)
    return {
        "client": "line",
        "version": version,
        "parent": None,
        "classes": ["bad\u2028", "good"],
        "published": True,
        "live": version,
        "model": "tiny",
        "weights": {"digest": "b" * 64, "bytes": 1234},
        "report": {**dict.fromkeys(unknown), "loss_curve": [], "folds": 0, "gate": gate, "seconds": seconds},
    }


def job(state: str = "running", stage: str = "adapt", done: int = 0, **more: Any) -> dict[str, Any]:
    steps = {"done": done, "of": 2, "loss": 0.75 if done else None}
    empty = {"first": None, "result": None, "problem": None, "created_at": "2026-03-01T12:00:00Z"}
    return {"job": "5f1c", "client": "line", "state": state, "stage": stage, "steps": steps, **empty, **more}


DONE = job("done", "store", 2, result=adapted())
PROBLEM = {"type": "t", "title": "T", "status": 503, "code": "overloaded", "detail": "d", "instance": PATH}


def event(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Yields the chunks of a response. Raises a chunk that is an exception."""

    def __init__(self, chunks: Sequence[bytes | BaseException]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


class Scripted:
    """A service with one job.

    Attributes:
        requests: method and path of each request received.
        slept: seconds that the client slept, in order.
        prefer: Prefer header of the adaptation.

    Args:
        events: chunks of the job's stream of events.
        polls: responses to polls of the job, one by one.
        cancelling: response to the request to cancel the job.
    """

    def __init__(self, *events: bytes | BaseException, polls: Sequence[Any] = (), cancelling: Any = None) -> None:
        self.events, self.polls, self.cancelling = events, list(polls), cancelling or job("cancelled")
        self.requests: list[str] = []
        self.slept: list[float] = []
        self.prefer: str | None = None
        self.transport = httpx.MockTransport(self._respond)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(f"{request.method} {request.url.path}")
        if request.url.path == "/adapt":
            self.prefer = request.headers.get("prefer")
            return httpx.Response(202, json=job("waiting", "waiting"))
        if request.url.path == f"{PATH}/events":
            return httpx.Response(200, stream=Stream(self.events), headers={"Content-Type": "text/event-stream"})
        scripted = self.cancelling if request.method == "DELETE" else self.polls.pop(0)
        if isinstance(scripted, Exception):
            raise scripted
        status, content = scripted if isinstance(scripted, tuple) else (200, scripted)
        media_type = "application/json" if status == 200 else "application/problem+json"
        return httpx.Response(status, json=content, headers={"Content-Type": media_type})

    def adapt(self, on_progress: Callable[[Job], object], **more: Any) -> AdaptResponse:
        with Client(transport=self.transport, sleep=self.slept.append) as anole:
            return anole.adapt("line", SAMPLES, on_progress=on_progress, **more)

    async def adapt_async(self, on_progress: Callable[[Job], object]) -> AdaptResponse:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        async def respond(request: httpx.Request) -> httpx.Response:
            await anyio.lowlevel.checkpoint()  # as on a network
            return self._respond(request)

        async with AsyncClient(transport=httpx.MockTransport(respond), sleep=sleep) as anole:
            return await anole.adapt("line", SAMPLES, on_progress=on_progress)
