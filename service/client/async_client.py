"""The async client. Arguments, results and errors are those of `Client`."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

import anyio
import httpx
import tenacity
from httpx_sse import aconnect_sse

from service.client import exports, jobs, records, requests
from service.client.batches import DEFAULT_LIMITS, split_images, split_samples
from service.client.connection import DEFAULT_URL, TIMEOUT, uses_proxy, valid_address
from service.client.errors import ClientError, ServiceUnreachable
from service.client.exports import ExportOptions
from service.client.files import Images, list_images
from service.client.jobs import OnProgress
from service.client.records import Wanted
from service.client.request import Request, unreachable
from service.client.requests import AdaptOptions
from service.client.samples import Samples, archive_of, read_samples
from service.http.schemas.audit import AuditEntry
from service.http.schemas.predictions import DriftReport, LoggedPrediction, ShadowReport
from service.http.schemas.reports import VersionDiff
from service.http.schemas.resources import (
    AdaptResponse,
    Alias,
    ClientInfo,
    ClientSettings,
    History,
    Job,
    Liveness,
    MetaModel,
    PredictResponse,
    Readiness,
    RequestLimits,
    ServiceInfo,
    UpgradeResponse,
    VersionDetails,
    VersionInfo,
)
from service.http.schemas.samples import StoredSample
from service.http.schemas.session import SessionInfo

T = TypeVar("T")

_DEFAULTS: Final = AdaptOptions()
_EXPORT_DEFAULTS: Final = ExportOptions()


class AsyncClient:
    """An async client. Arguments, results and errors are those of `Client`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        headers = requests.header("X-API-Key", key)
        with valid_address(url):
            self._http = httpx.AsyncClient(
                base_url=url,
                headers=headers,
                timeout=timeout,
                transport=transport,
                trust_env=uses_proxy(url),
            )
        self._sleep = sleep

    async def adapt(
        self,
        client: str,
        samples: Samples,
        options: AdaptOptions = _DEFAULTS,
        *,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
    ) -> AdaptResponse:
        """See `Client.adapt`. `on_progress` may be a coroutine function; cancellation cancels the adaptation too."""
        if (archive := archive_of(samples)) is not None:
            return await self._adapt(requests.adapt_archive(client, archive, options, idempotency_key), on_progress)
        labelled = read_samples(samples)
        groups = split_samples(labelled, DEFAULT_LIMITS)
        if len(groups) > 1:
            groups = split_samples(labelled, await self._limits())
        made: list[AdaptResponse] = []
        for request in requests.adapt(client, groups, options, idempotency_key):
            try:
                made.append(await self._adapt(request, on_progress))
            except BaseException as error:
                jobs.note_versions(error, made)
                raise
        return requests.last_of(made)

    async def _adapt(self, request: Request[AdaptResponse], on_progress: OnProgress | None) -> AdaptResponse:
        if on_progress is None:
            return await self._send(request)
        response = await self._send(requests.adapt_in_job(request))
        return await self._follow(response, on_progress) if isinstance(response, Job) else response

    async def _limits(self) -> RequestLimits:
        return (await self._send(requests.service_info())).limits or DEFAULT_LIMITS

    async def predict(
        self,
        client: str,
        images: Images,
        *,
        version: int | None = None,
        alias: str | None = None,
        explain: bool = False,
        station: str | None = None,
    ) -> PredictResponse:
        """See `Client.predict`."""
        files = list_images(images)
        groups = split_images(files, DEFAULT_LIMITS, explain=explain)
        if len(groups) > 1:
            groups = split_images(files, await self._limits(), explain=explain)
        responses = [
            await self._send(requests.predict(client, groups[0], version, alias, explain=explain, station=station))
        ]
        for group in groups[1:]:
            request = requests.predict(client, group, responses[0].version, explain=explain, station=station)
            responses.append(await self._send(request))
        return requests.joined(responses)

    async def clients(self) -> list[ClientInfo]:
        """See `Client.clients`."""
        return await self._all(requests.clients)

    async def client(self, client: str) -> ClientInfo:
        """See `Client.client`."""
        return await self._send(requests.client(client))

    async def versions(self, client: str) -> list[VersionInfo]:
        """See `Client.versions`."""
        return await self._all(partial(requests.versions, client))

    async def version(self, client: str, version: int) -> VersionDetails:
        """See `Client.version`."""
        return await self._send(requests.version(client, version))

    async def history(self, client: str, at: datetime | None = None) -> History:
        """See `Client.history`."""
        found: list[Alias] = []
        while True:
            page = await self._send(requests.history(client, at, len(found)))
            new = requests.new_entries(page.moves, found)
            found += new
            if len(new) < requests.PAGE:
                return page.model_copy(update={"moves": found})

    async def audit(
        self, client: str | None = None, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[AuditEntry]:
        """See `Client.audit`."""
        return await self._all(partial(records.audit, client, since, until))

    async def predictions(self, client: str, *, limit: int = 1000, **wanted: Unpack[Wanted]) -> list[LoggedPrediction]:
        """See `Client.predictions`."""
        found: list[LoggedPrediction] = []
        while len(found) < limit:
            request = records.predictions(client, wanted, limit - len(found), found[-1].id if found else None)
            page = (await self._send(request)).predictions
            found += page
            if len(page) < requests.PAGE:
                break
        return found

    async def shadow(self, client: str, version: int, candidate: int) -> ShadowReport:
        """See `Client.shadow`."""
        report = await self._send(records.shadow(client, version, candidate, None))
        while len(report.changed) % requests.PAGE == 0 and report.changed:
            page = await self._send(records.shadow(client, version, candidate, report.changed[-1].id))
            if not page.changed:
                break
            report = page.model_copy(update={"changed": report.changed + page.changed})
        return report

    async def drift(self, client: str, hours: int = 24) -> DriftReport:
        """See `Client.drift`."""
        return await self._send(records.drift(client, hours))

    async def promote(self, client: str) -> Alias:
        """See `Client.promote`."""
        return await self._send(records.promote(client))

    async def settings(self, client: str) -> ClientSettings:
        """See `Client.settings`."""
        return await self._send(requests.settings(client))

    async def set_settings(self, client: str, settings: ClientSettings) -> ClientSettings:
        """See `Client.set_settings`."""
        return await self._send(requests.set_settings(client, settings))

    async def change_settings(self, client: str, changes: Mapping[str, Any]) -> ClientSettings:
        """See `Client.change_settings`."""
        return await self._send(requests.change_settings(client, changes))

    async def alias(self, client: str, alias: str = "live") -> Alias:
        """See `Client.alias`."""
        return await self._send(requests.alias(client, alias))

    async def move_alias(self, client: str, alias: str, version: int, *, etag: str | None = None) -> Alias:
        """See `Client.move_alias`."""
        return await self._send(requests.move_alias(client, alias, version, etag))

    async def rollback(self, client: str, alias: str = "live") -> Alias:
        """See `Client.rollback`."""
        return await self._send(requests.rollback(client, alias))

    async def upgrade(self, client: str, publish: str | None = None) -> UpgradeResponse:
        """See `Client.upgrade`."""
        return await self._send(requests.upgrade(client, publish))

    async def delete(self, client: str, version: int | None = None) -> None:
        """See `Client.delete`."""
        await self._send(requests.delete(client, version))

    async def weights(self, client: str, version: int) -> bytes:
        """See `Client.weights`."""
        return await self._send(requests.weights(client, version))

    async def export(self, client: str, version: int, options: ExportOptions = _EXPORT_DEFAULTS) -> bytes:
        """See `Client.export`."""
        return await self._send(exports.export(client, version, options))

    async def import_version(self, client: str, content: bytes, *, publish: str | None = None) -> AdaptResponse:
        """See `Client.import_version`."""
        return await self._send(exports.import_version(client, content, publish))

    async def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """See `Client.diff`."""
        return await self._send(requests.diff(client, before, after))

    async def samples(self, client: str, *, label: str | None = None, version: int | None = None) -> list[StoredSample]:
        """See `Client.samples`."""
        return await self._all(partial(requests.samples, client, label, version))

    async def sample_png(self, client: str, digest: str, *, side: int | None = None) -> bytes:
        """See `Client.sample_png`."""
        return await self._send(requests.sample_png(client, digest, side))

    async def correct(
        self,
        client: str,
        *,
        relabel: Mapping[str, str] = MappingProxyType({}),
        remove: Collection[str] = (),
        publish: str | None = None,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
    ) -> AdaptResponse:
        """See `Client.correct`."""
        request = requests.correct(client, relabel, remove, publish, idempotency_key)
        return await self._adapt(request, on_progress)

    async def job(self, job: str) -> Job:
        """See `Client.job`."""
        return await self._send(requests.job(job))

    async def cancel_job(self, job: str) -> Job:
        """See `Client.cancel_job`."""
        return await self._send(requests.cancel_job(job))

    async def follow_job(self, job: str) -> AsyncGenerator[Job]:
        """See `Client.follow_job`."""
        async with contextlib.aclosing(self._changes(job)) as changes:
            async for state in changes:
                yield state
                if jobs.is_over(state):
                    return

    async def models(self) -> list[MetaModel]:
        """See `Client.models`."""
        return (await self._send(requests.models())).models

    async def model(self, name: str) -> MetaModel:
        """See `Client.model`."""
        return await self._send(requests.model(name))

    async def service(self) -> ServiceInfo:
        """See `Client.service`."""
        return await self._send(requests.service_info())

    async def session(self) -> SessionInfo:
        """See `Client.session`."""
        return await self._send(requests.session())

    async def liveness(self) -> Liveness:
        """See `Client.liveness`."""
        return await self._send(requests.liveness())

    async def readiness(self) -> Readiness:
        """See `Client.readiness`."""
        return await self._send(requests.readiness())

    async def metrics(self) -> str:
        """See `Client.metrics`."""
        return await self._send(requests.metrics())

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, request: Request[T]) -> T:
        retrying = tenacity.AsyncRetrying(sleep=self._sleep, **request.retry(self._http.timeout))
        try:
            response: httpx.Response = await retrying(
                self._http.request, request.method, request.path, **request.content
            )
        except httpx.HTTPError as error:
            raise unreachable(self._http.base_url, error) from error
        return request.result(response)

    async def _all(self, page_after: Callable[[list[T]], Request[list[T]]]) -> list[T]:
        """Return the entries of all pages. `page_after` makes the request for the page after those that were found."""
        found: list[T] = []
        while True:
            page = requests.new_entries(await self._send(page_after(found)), found)
            found += page
            if len(page) < requests.PAGE:
                return found

    async def _follow(self, job: Job, on_progress: OnProgress) -> AdaptResponse:
        number = job.job
        try:
            async with contextlib.aclosing(self._changes(number)) as changes:
                async for job in changes:
                    called = on_progress(job)
                    if inspect.isawaitable(called):
                        await called
                    if jobs.is_over(job):
                        break
        except BaseException as error:
            error.add_note(await self._cancel(number))
            raise
        return jobs.outcome(job)

    async def _changes(self, number: str) -> AsyncGenerator[Job]:
        with contextlib.suppress(httpx.HTTPError, ServiceUnreachable):
            async with aconnect_sse(self._http, "GET", requests.job_events(number)) as stream:
                async for event in stream.aiter_sse():
                    if event.event != "first":  # a version, which the next event contains too
                        yield jobs.read(event.data)
        retrying = tenacity.AsyncRetrying(sleep=self._sleep, **jobs.POLLING)
        while True:
            yield await retrying(self._send, requests.job(number))
            await self._sleep(jobs.POLL_S)

    async def _cancel(self, number: str) -> str:
        with anyio.move_on_after(jobs.CANCEL_S, shield=True):  # a cancelled task can await nothing unshielded
            try:
                return jobs.cancellation_note(await self._send(requests.cancel_job(number)))
            except ClientError as error:
                return f"job {number} could not be cancelled: {error}"
        return f"job {number} could not be cancelled within {jobs.CANCEL_S:g} s"
