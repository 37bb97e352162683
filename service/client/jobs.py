"""An adaptation that the service leaves to a job: asked for, followed by its events or by looking, and cancelled.

Both clients use it; what is sent and read is the same. It knows neither files nor terminals.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import anyio
import httpx

from service.client import wire
from service.client.calls import Call, Reply, read_adapted
from service.client.types import Adapted, AdaptProgress, ClientError, ServiceProblem, ServiceUnreachable

T = TypeVar("T")

Told = Callable[[AdaptProgress], object]
"""Called with how far an adaptation is."""

_LOOK_EVERY_S: Final = 1.0
_LOOKS: Final = 5
"""So many looks in a row may go unanswered."""

_CANCEL_S: Final = 10.0
"""How long whoever is cancelled waits for the job's end."""


class Send(Protocol):
    """Sends a call and reads its answer."""

    def __call__(self, call: Call[T], /) -> T:
        """Raises ServiceProblem, ServiceUnreachable."""
        ...


class AwaitedSend(Protocol):
    """Sends a call, and the answer that it reads is awaited."""

    def __call__(self, call: Call[T], /) -> Awaitable[T]:
        """As `Send`."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """An adaptation that nobody waits for on the line.

    Attributes:
        number: names it.
        client: of the version that it makes.
        state: "waiting", "running", "done", "failed" or "cancelled".
        progress: how far it is.
        result: the version, once the state is "done".
        problem: why there is none, once the state is "failed" or "cancelled".
    """

    number: str
    client: str
    state: str
    progress: AdaptProgress
    result: Adapted | None
    problem: ServiceProblem | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.result is not None or self.problem is not None

    def outcome(self) -> Adapted:
        """The version that it made.

        Raises:
            ServiceProblem: it made none.
        """
        if self.result is None:
            raise self.problem or RuntimeError(f"job {self.number} is not over")
        return self.result

    def after_cancelling(self) -> str:
        """What came of it when it was cancelled, in words."""
        if self.result is not None:
            return f"job {self.number} was over before it could be cancelled, and made version {self.result.version}"
        if not self.is_over:
            return f"job {self.number} is recording its version already, and cannot be cancelled any more"
        if self.state != "cancelled":
            return f"job {self.number} had failed before it could be cancelled"
        first = self.progress.first
        kept = "no version" if first is None else f"no version after its first, {first.version}, which stays"
        return f"job {self.number} was cancelled, and made {kept}"


def left_to_a_job(call: Call[Adapted]) -> Call[Adapted | Job]:
    """An adaptation's call that may be answered with a job."""

    def read(data: Any) -> Adapted | Job:
        return _read_job(data) if "job" in data else call.read(data)

    headers = {**call.headers, "Prefer": "respond-async"}
    return Call(call.method, call.path, read, call.parts, call.query, headers)


def _look(number: str) -> Call[Job]:
    return Call("GET", f"/jobs/{number}", _read_job)


def _cancel(number: str) -> Call[Job]:
    return Call("DELETE", f"/jobs/{number}", _read_job, repeatable=False)


class _Events:
    """Server-sent events as they come in, of one job: their bytes in, jobs out."""

    def __init__(self, number: str) -> None:
        self.call = Call("GET", f"/jobs/{number}/events", _read_job, headers={"Accept": "text/event-stream"})
        self._rest, self._kind, self._data = b"", b"", b""

    def feed(self, response: httpx.Response, chunk: bytes) -> Iterator[Job]:
        """The job as each event that is whole now has it.

        Raises:
            ServiceUnreachable: that is no job.
        """
        if response.status_code != httpx.codes.OK:
            raise ServiceUnreachable(f"{self.call.path} was answered with status {response.status_code}")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.partition(b":")
            if field == b"event":
                self._kind = value.strip()
            elif field == b"data":
                self._data += value
            elif not line.strip() and self._data:
                kind, data, self._kind, self._data = self._kind, self._data, b"", b""
                if kind != b"first":  # a version; the job that comes next has it too
                    yield self.call.result(Reply(httpx.codes.OK, {}, data))


class Follower:
    """Follows jobs and waits.

    Args:
        http: for the events.
        send: sends all else.
        wait: called with seconds between two looks.
    """

    def __init__(self, http: httpx.Client, send: Send, wait: Callable[[float], object]) -> None:
        self._http, self._send, self._wait = http, send, wait

    def follow(self, accepted: Job, told: Told) -> Adapted:
        """Say how far the job is until it is over; what ends this before ends the job.

        Raises:
            ServiceProblem: it made no version.
            ServiceUnreachable: nothing is to be learnt of it any more.
            And what `told` raises.
        """
        try:
            with contextlib.closing(self._states(accepted.number)) as states:
                for job in states:
                    told(job.progress)
                    if job.is_over:
                        break
        except BaseException as error:
            error.add_note(self._cancelled(accepted.number))
            raise
        return job.outcome()

    def _states(self, number: str) -> Generator[Job]:
        """The job by its events; where they break off, by looking now and then."""
        events = _Events(number)
        with contextlib.suppress(httpx.HTTPError, ServiceUnreachable):
            response = self._http.send(wire.request(self._http, events.call), stream=True)
            with contextlib.closing(response):
                for chunk in response.iter_bytes():
                    yield from events.feed(response, chunk)
        while True:
            yield self._looked(number)
            self._wait(_LOOK_EVERY_S)

    def _looked(self, number: str) -> Job:
        for _ in range(_LOOKS - 1):
            with contextlib.suppress(ServiceUnreachable):
                return self._send(_look(number))
            self._wait(_LOOK_EVERY_S)
        return self._send(_look(number))

    def _cancelled(self, number: str) -> str:
        try:
            return self._send(_cancel(number)).after_cancelling()
        except ClientError as error:
            return f"job {number} could not be cancelled: {error}"


class AwaitingFollower:
    """Follows jobs as `Follower` does, and awaits."""

    def __init__(self, http: httpx.AsyncClient, send: AwaitedSend, wait: Callable[[float], Awaitable[object]]) -> None:
        self._http, self._send, self._wait = http, send, wait

    async def follow(self, accepted: Job, told: Told) -> Adapted:
        """As `Follower.follow`; what `told` returns is awaited if it can be."""
        try:
            async with contextlib.aclosing(self._states(accepted.number)) as states:
                async for job in states:
                    done = told(job.progress)
                    if inspect.isawaitable(done):
                        await done
                    if job.is_over:
                        break
        except BaseException as error:
            error.add_note(await self._cancelled(accepted.number))
            raise
        return job.outcome()

    async def _states(self, number: str) -> AsyncGenerator[Job]:
        events = _Events(number)
        with contextlib.suppress(httpx.HTTPError, ServiceUnreachable):
            response = await self._http.send(wire.request(self._http, events.call), stream=True)
            async with contextlib.aclosing(response):
                async for chunk in response.aiter_bytes():
                    for job in events.feed(response, chunk):
                        yield job
        while True:
            yield await self._looked(number)
            await self._wait(_LOOK_EVERY_S)

    async def _looked(self, number: str) -> Job:
        for _ in range(_LOOKS - 1):
            with contextlib.suppress(ServiceUnreachable):
                return await self._send(_look(number))
            await self._wait(_LOOK_EVERY_S)
        return await self._send(_look(number))

    async def _cancelled(self, number: str) -> str:
        with anyio.move_on_after(_CANCEL_S, shield=True):  # whoever is cancelled may await nothing else
            try:
                return (await self._send(_cancel(number))).after_cancelling()
            except ClientError as error:
                return f"job {number} could not be cancelled: {error}"
        return f"job {number} could not be cancelled within {_CANCEL_S:g} s"


def _read_job(data: Any) -> Job:
    number, state, steps, first = data["job"], data["state"], data["steps"], data["first"]
    return Job(
        number=number,
        client=data["client"],
        state=state,
        progress=AdaptProgress(
            stage=data["stage"],
            steps_done=steps["done"],
            steps=steps["of"],
            loss=steps["loss"],
            first=None if first is None else read_adapted(first),
        ),
        result=read_adapted(data["result"]) if state == "done" else None,
        problem=_problem(number, state, data["problem"]),
    )


def _problem(number: str, state: str, fields: Any) -> ServiceProblem | None:
    if state == "cancelled":  # by somebody else; the service names no problem for it
        detail = f"job {number} was cancelled, and made no version; send the adaptation again if it is still wanted"
        fields = {"status": 409, "code": "job_cancelled", "title": "The job was cancelled", "detail": detail}
    elif state != "failed":
        return None
    return ServiceProblem(fields, None, number)
