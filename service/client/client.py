"""The Python client: `Client` waits, `AsyncClient` awaits; both send the same calls. Needs no torch and no store.

::

    with Client("http://127.0.0.1:8000") as anole:
        adapted = anole.adapt("line-4", Path("parts"))
        verdicts = anole.predict("line-4", [Path("new.png")]).predictions
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import httpx

from service.client import calls, jobs, wire
from service.client.calls import Call
from service.client.jobs import Job, Told
from service.client.reports import VersionDiff
from service.client.types import (
    Adapted,
    AdaptOptions,
    AdaptProgress,
    AliasInfo,
    ClientError,
    ClientInfo,
    History,
    InvalidInput,
    Predicted,
    ServiceProblem,
    ServiceUnreachable,
    VersionInfo,
)
from service.client.wire import Samples

__all__ = [
    "AdaptOptions",
    "AdaptProgress",
    "AsyncClient",
    "Client",
    "ClientError",
    "InvalidInput",
    "ServiceProblem",
    "ServiceUnreachable",
]

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
_AS_SENT: Final = AdaptOptions()


class Client:
    """Talks to a service and waits for its answers.

    Args:
        url: address of the service.
        key: what the service wants to see, if it wants one.
        timeout: httpx's.
        transport: httpx's, for tests.
        wait: called with seconds before a request is sent again.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: httpx.Timeout = _TIMEOUT,
        transport: httpx.BaseTransport | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=wire.headers(key), timeout=timeout, transport=transport)
        self._wait = wait or threading.Event().wait

    def adapt(
        self,
        client: str,
        samples: Samples,
        options: AdaptOptions = _AS_SENT,
        *,
        told: Told | None = None,
        idempotency_key: str | None = None,
    ) -> Adapted:
        """Make a new version of `client`; a repetition after a lost answer makes no second one.

        Whoever is told how far it is may raise, or be interrupted from the keyboard: the adaptation is then cancelled,
        and the error has a note that says what came of that.

        Args:
            client: its name; it is made if it is new.
            samples: a folder with one sub-folder a class, a zip of such, or images with labels.
            options: what to ask for.
            told: called with how far it is, again and again; not at all by a service of several workers.
            idempotency_key: names this request; a fresh one if None.

        Raises:
            InvalidInput, ServiceProblem, ServiceUnreachable; and what `told` raises.
        """
        call = wire.adapt_call(client, samples, options, idempotency_key)
        if told is None:
            return self._send(call)
        answer = self._send(jobs.left_to_a_job(call))
        return (
            jobs.Follower(self._http, self._send, self._wait).follow(answer, told)
            if isinstance(answer, Job)
            else answer
        )

    def predict(
        self, client: str, images: Iterable[Path | bytes], *, version: int | None = None, alias: str | None = None
    ) -> Predicted:
        """Judge images by the live version, or by a given version or alias. Raises as `adapt` does."""
        return self._send(wire.predict_call(client, images, version, alias))

    def clients(self) -> tuple[ClientInfo, ...]:
        """Every client, by name."""
        return self._send(calls.clients())

    def client(self, client: str) -> ClientInfo:
        """One client."""
        return self._send(calls.client(client))

    def versions(self, client: str) -> tuple[VersionInfo, ...]:
        """Its versions, oldest first."""
        return self._send(calls.versions(client))

    def history(self, client: str, at: datetime | None = None) -> History:
        """Its alias moves, and what was live at that moment."""
        return self._send(calls.history(client, at))

    def alias(self, client: str, alias: str = "live") -> AliasInfo:
        """Where an alias points."""
        return self._send(calls.alias(client, alias))

    def move_alias(self, client: str, alias: str, version: int, *, etag: str | None = None) -> AliasInfo:
        """Point an alias at a version; with `etag` only if nobody moved it since."""
        return self._send(calls.move_alias(client, alias, version, etag))

    def rollback(self, client: str, alias: str = "live") -> AliasInfo:
        """Point an alias at the version before the current one."""
        return self._send(calls.rollback(client, alias))

    def delete(self, client: str, version: int | None = None) -> None:
        """Delete a version, or without one the whole client."""
        self._send(calls.delete(client, version))

    def weights(self, client: str, version: int) -> bytes:
        """A version's weights as the bytes of a safetensors file."""
        return self._send(calls.weights(client, version))

    def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """What changes from one version to another."""
        return self._send(calls.diff(client, before, after))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        attempt = 1
        while True:
            try:
                response = self._http.send(wire.request(self._http, call))
            except httpx.HTTPError as error:
                raise wire.unreachable(self._http.base_url, error) from error
            delay_s = wire.retry_delay_s(call, response, attempt)
            if delay_s is None:
                return call.result(wire.reply(response))
            self._wait(delay_s)
            attempt += 1


class AsyncClient:
    """Talks to a service and awaits its answers; arguments, answers and errors are those of `Client`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: httpx.Timeout = _TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
        wait: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=wire.headers(key), timeout=timeout, transport=transport)
        self._wait = wait

    async def adapt(
        self,
        client: str,
        samples: Samples,
        options: AdaptOptions = _AS_SENT,
        *,
        told: Told | None = None,
        idempotency_key: str | None = None,
    ) -> Adapted:
        """As `Client.adapt`; `told` may be a coroutine function, and to be cancelled is to be interrupted."""
        call = wire.adapt_call(client, samples, options, idempotency_key)
        if told is None:
            return await self._send(call)
        answer = await self._send(jobs.left_to_a_job(call))
        if isinstance(answer, Job):
            return await jobs.AwaitingFollower(self._http, self._send, self._wait).follow(answer, told)
        return answer

    async def predict(
        self, client: str, images: Iterable[Path | bytes], *, version: int | None = None, alias: str | None = None
    ) -> Predicted:
        """Judge images by the live version, or by a given version or alias. Raises as `adapt` does."""
        return await self._send(wire.predict_call(client, images, version, alias))

    async def clients(self) -> tuple[ClientInfo, ...]:
        """Every client, by name."""
        return await self._send(calls.clients())

    async def client(self, client: str) -> ClientInfo:
        """One client."""
        return await self._send(calls.client(client))

    async def versions(self, client: str) -> tuple[VersionInfo, ...]:
        """Its versions, oldest first."""
        return await self._send(calls.versions(client))

    async def history(self, client: str, at: datetime | None = None) -> History:
        """Its alias moves, and what was live at that moment."""
        return await self._send(calls.history(client, at))

    async def alias(self, client: str, alias: str = "live") -> AliasInfo:
        """Where an alias points."""
        return await self._send(calls.alias(client, alias))

    async def move_alias(self, client: str, alias: str, version: int, *, etag: str | None = None) -> AliasInfo:
        """Point an alias at a version; with `etag` only if nobody moved it since."""
        return await self._send(calls.move_alias(client, alias, version, etag))

    async def rollback(self, client: str, alias: str = "live") -> AliasInfo:
        """Point an alias at the version before the current one."""
        return await self._send(calls.rollback(client, alias))

    async def delete(self, client: str, version: int | None = None) -> None:
        """Delete a version, or without one the whole client."""
        await self._send(calls.delete(client, version))

    async def weights(self, client: str, version: int) -> bytes:
        """A version's weights as the bytes of a safetensors file."""
        return await self._send(calls.weights(client, version))

    async def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """What changes from one version to another."""
        return await self._send(calls.diff(client, before, after))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        attempt = 1
        while True:
            try:
                response = await self._http.send(wire.request(self._http, call))
            except httpx.HTTPError as error:
                raise wire.unreachable(self._http.base_url, error) from error
            delay_s = wire.retry_delay_s(call, response, attempt)
            if delay_s is None:
                return call.result(wire.reply(response))
            await self._wait(delay_s)
            attempt += 1
