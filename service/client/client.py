"""The Python client. `Client` blocks and `AsyncClient` awaits; both send the same requests.

::

    with Client("http://127.0.0.1:8000") as anole:
        adapted = anole.adapt("line-4", "parts")
        predictions = anole.predict("line-4", ["new.png"]).predictions
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

import httpx
import tenacity
from httpx_sse import connect_sse

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


class Client:
    """A blocking client.

    Every method raises `ServiceProblem` if the service responds with an error, `ServiceUnreachable` if it does not
    respond, and `InvalidInput` if an argument cannot be sent. A request that is safe to repeat is sent up to four times
    to a service that is busy; one that exceeded a time limit of the service, only within the read timeout.

    Args:
        url: address of the service.
        key: API key, if the service requires one.
        timeout: see `httpx.Client`.
        transport: see `httpx.Client`. For tests.
        sleep: called with the seconds to wait before a request is sent again. For tests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = tenacity.nap.sleep,
    ) -> None:
        headers = requests.header("X-API-Key", key)
        with valid_address(url):
            self._http = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=timeout,
                transport=transport,
                trust_env=uses_proxy(url),
            )
        self._sleep = sleep

    def adapt(
        self,
        client: str,
        samples: Samples,
        options: AdaptOptions = _DEFAULTS,
        *,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
    ) -> AdaptResponse:
        """Create a new version of `client`.

        More samples than one request may have are sent in several requests. Each makes a version that extends the one
        before, and only the last may go live; its report has the notes about all. If one fails, the exception has a
        note that says which versions exist.

        If `on_progress` raises, or an interrupt from the keyboard arrives, the adaptation is cancelled and the
        exception has a note that says whether that was in time.

        Args:
            client: name of the client. A new client is created.
            samples: a folder with one sub-folder per class, a zip of such a folder, or images with labels.
            options: see `AdaptOptions`.
            on_progress: called with the job each time it has changed.
            idempotency_key: identifies this adaptation: sent twice with the same key, it creates one version.
                Default: a new key.
        """
        if (archive := archive_of(samples)) is not None:
            return self._adapt(requests.adapt_archive(client, archive, options, idempotency_key), on_progress)
        labelled = read_samples(samples)
        groups = split_samples(labelled, DEFAULT_LIMITS)
        if len(groups) > 1:
            groups = split_samples(labelled, self._limits())
        made: list[AdaptResponse] = []
        for request in requests.adapt(client, groups, options, idempotency_key):
            try:
                made.append(self._adapt(request, on_progress))
            except BaseException as error:
                jobs.note_versions(error, made)
                raise
        return requests.last_of(made)

    def _adapt(self, request: Request[AdaptResponse], on_progress: OnProgress | None) -> AdaptResponse:
        if on_progress is None:
            return self._send(request)
        response = self._send(requests.adapt_in_job(request))
        return self._follow(response, on_progress) if isinstance(response, Job) else response

    def _limits(self) -> RequestLimits:
        return self._send(requests.service_info()).limits or DEFAULT_LIMITS

    def predict(
        self,
        client: str,
        images: Images,
        *,
        version: int | None = None,
        alias: str | None = None,
        explain: bool = False,
        station: str | None = None,
    ) -> PredictResponse:
        """Classify images with the live version, or with the given version or alias.

        A prediction whose `unknown_score` is above the version's `unknown_threshold` has the verdict "unknown": the
        image probably shows none of the classes.

        With `explain`, each prediction has an `explanation`, a small map of where the image has what speaks for its
        class.

        The prediction log, if the client's setting `log_predictions` is true, has the `part` of each `Image` and the
        `station`, which is where the images were taken.

        More images than one request may have are sent in several requests, all to the version that the first one used.
        """
        files = list_images(images)
        groups = split_images(files, DEFAULT_LIMITS, explain=explain)
        if len(groups) > 1:
            groups = split_images(files, self._limits(), explain=explain)
        request = requests.predict(client, groups[0], version, alias, explain=explain, station=station)
        responses = [self._send(request)]
        for group in groups[1:]:
            request = requests.predict(client, group, responses[0].version, explain=explain, station=station)
            responses.append(self._send(request))
        return requests.joined(responses)

    def clients(self) -> list[ClientInfo]:
        """List all clients, by name."""
        return self._all(requests.clients)

    def client(self, client: str) -> ClientInfo:
        """Read one client."""
        return self._send(requests.client(client))

    def versions(self, client: str) -> list[VersionInfo]:
        """List the client's versions, oldest first."""
        return self._all(partial(requests.versions, client))

    def version(self, client: str, version: int) -> VersionDetails:
        """Read one version with its samples, its report and everything that is needed to make it again."""
        return self._send(requests.version(client, version))

    def history(self, client: str, at: datetime | None = None) -> History:
        """Read the log of alias moves up to a moment, and the version that was live then. Default: now."""
        found: list[Alias] = []
        while True:
            page = self._send(requests.history(client, at, len(found)))
            new = requests.new_entries(page.moves, found)
            found += new
            if len(new) < requests.PAGE:
                return page.model_copy(update={"moves": found})

    def audit(
        self, client: str | None = None, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[AuditEntry]:
        """Read who changed what, newest first. Requires the scope `admin`.

        Args:
            client: only changes of this client, which may be deleted. Default: all.
            since: only changes from this moment on.
            until: only changes before this moment.
        """
        return self._all(partial(records.audit, client, since, until))

    def predictions(self, client: str, *, limit: int = 1000, **wanted: Unpack[Wanted]) -> list[LoggedPrediction]:
        """Read what versions said about images, newest first.

        Args:
            client: name of the client.
            limit: number of entries at most.
            wanted: what the entries must have: `part`, `image` (SHA-256 of the file), `station`, `label`, `verdict` or
                `version`; and the moments `since` and `until`, from which and before which they were made.
        """
        found: list[LoggedPrediction] = []
        while len(found) < limit:
            request = records.predictions(client, wanted, limit - len(found), found[-1].id if found else None)
            page = self._send(request).predictions
            found += page
            if len(page) < requests.PAGE:
                break
        return found

    def shadow(self, client: str, version: int, candidate: int) -> ShadowReport:
        """Read how a candidate judged the images that a version answered, and all images that it would change."""
        report = self._send(records.shadow(client, version, candidate, None))
        while len(report.changed) % requests.PAGE == 0 and report.changed:
            page = self._send(records.shadow(client, version, candidate, report.changed[-1].id))
            if not page.changed:
                break
            report = page.model_copy(update={"changed": report.changed + page.changed})
        return report

    def drift(self, client: str, hours: int = 24) -> DriftReport:
        """Read whether the images of the last hours are unlike those that the live version was validated on."""
        return self._send(records.drift(client, hours))

    def promote(self, client: str) -> Alias:
        """Make the candidate live, and return the alias `live`."""
        return self._send(records.promote(client))

    def settings(self, client: str) -> ClientSettings:
        """Read the settings of a client."""
        return self._send(requests.settings(client))

    def set_settings(self, client: str, settings: ClientSettings) -> ClientSettings:
        """Replace all settings of a client. The client is created if necessary."""
        return self._send(requests.set_settings(client, settings))

    def change_settings(self, client: str, changes: Mapping[str, Any]) -> ClientSettings:
        """Change some settings of a client, by name, and return all of them."""
        return self._send(requests.change_settings(client, changes))

    def alias(self, client: str, alias: str = "live") -> Alias:
        """Read which version an alias points at."""
        return self._send(requests.alias(client, alias))

    def move_alias(self, client: str, alias: str, version: int, *, etag: str | None = None) -> Alias:
        """Point an alias at a version; with `etag`, only if the alias has not moved since."""
        return self._send(requests.move_alias(client, alias, version, etag))

    def rollback(self, client: str, alias: str = "live") -> Alias:
        """Point an alias at the version that it pointed at before."""
        return self._send(requests.rollback(client, alias))

    def upgrade(self, client: str, publish: str | None = None) -> UpgradeResponse:
        """Adapt the stored samples of the live version anew, with the client's present `model` and `uncertainty`.

        The problem `nothing_to_upgrade` says that the version was adapted with them already.

        Args:
            client: name of the client.
            publish: "auto" leaves it to the gate whether the new version goes live; "always" or "never".
        """
        return self._send(requests.upgrade(client, publish))

    def delete(self, client: str, version: int | None = None) -> None:
        """Delete one version. Without `version`, delete the whole client."""
        self._send(requests.delete(client, version))

    def weights(self, client: str, version: int) -> bytes:
        """Download the weights of a version as a safetensors file."""
        return self._send(requests.weights(client, version))

    def export(self, client: str, version: int, options: ExportOptions = _EXPORT_DEFAULTS) -> bytes:
        """Download a version as one file that takes an image of any size and predicts as the service does.

        The service compares the file with itself first. `anole verify FILE` repeats that anywhere.

        Args:
            client: name of the client.
            version: number of the version.
            options: see `ExportOptions`.
        """
        return self._send(exports.export(client, version, options))

    def import_version(self, client: str, content: bytes, *, publish: str | None = None) -> AdaptResponse:
        """Create a new version of `client` from a file that `export` returned, here or from another service.

        It is held unless `publish` says otherwise: "always", or "auto", which leaves it to the gate.
        """
        return self._send(exports.import_version(client, content, publish))

    def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """Compare two versions."""
        return self._send(requests.diff(client, before, after))

    def samples(self, client: str, *, label: str | None = None, version: int | None = None) -> list[StoredSample]:
        """List the samples that the next extension builds on, and how the folds of a version judged each.

        Args:
            client: name of the client.
            label: only samples with this label.
            version: the version that judges. Default: the live one, or else the newest.
        """
        return self._all(partial(requests.samples, client, label, version))

    def sample_png(self, client: str, digest: str, *, side: int | None = None) -> bytes:
        """Download a stored sample as a PNG; with `side`, shrunk to this longer side in pixels."""
        return self._send(requests.sample_png(client, digest, side))

    def correct(
        self,
        client: str,
        *,
        relabel: Mapping[str, str] = MappingProxyType({}),
        remove: Collection[str] = (),
        publish: str | None = None,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
    ) -> AdaptResponse:
        """Create a new version of `client` from its stored samples, with other labels or without some of them.

        Args:
            client: name of the client.
            relabel: digest of a sample, from `samples`, -> its right label.
            remove: digests of samples to leave out.
            publish: "auto" leaves it to the gate whether the new version goes live; "always" or "never".
            on_progress: see `adapt`.
            idempotency_key: see `adapt`.
        """
        request = requests.correct(client, relabel, remove, publish, idempotency_key)
        return self._adapt(request, on_progress)

    def job(self, job: str) -> Job:
        """Read the progress and the result of a job."""
        return self._send(requests.job(job))

    def cancel_job(self, job: str) -> Job:
        """Cancel a job. One that has ended, or is recording its version, does not change."""
        return self._send(requests.cancel_job(job))

    def follow_job(self, job: str) -> Generator[Job]:
        """Yield the job each time it has changed, until it is over."""
        with contextlib.closing(self._changes(job)) as changes:
            for state in changes:
                yield state
                if jobs.is_over(state):
                    return

    def models(self) -> list[MetaModel]:
        """List the models that clients are adapted from. The first one is the default."""
        return self._send(requests.models()).models

    def model(self, name: str) -> MetaModel:
        """Read how a model was trained, and its default settings."""
        return self._send(requests.model(name))

    def service(self) -> ServiceInfo:
        """Read the release of the service and its limits, and whether it requires a key."""
        return self._send(requests.service_info())

    def session(self) -> SessionInfo:
        """Read whether the service requires a key, and what the key of this client may do."""
        return self._send(requests.session())

    def liveness(self) -> Liveness:
        """Return if the service responds at all."""
        return self._send(requests.liveness())

    def readiness(self) -> Readiness:
        """Read whether the service accepts requests; if not, which check failed."""
        return self._send(requests.readiness())

    def metrics(self) -> str:
        """Read the metrics of the process that responds, in the text format of Prometheus."""
        return self._send(requests.metrics())

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: Request[T]) -> T:
        retrying = tenacity.Retrying(sleep=self._sleep, **request.retry(self._http.timeout))
        try:
            response = retrying(self._http.request, request.method, request.path, **request.content)
        except httpx.HTTPError as error:
            raise unreachable(self._http.base_url, error) from error
        return request.result(response)

    def _all(self, page_after: Callable[[list[T]], Request[list[T]]]) -> list[T]:
        """Return the entries of all pages. `page_after` makes the request for the page after those that were found."""
        found: list[T] = []
        while True:
            page = requests.new_entries(self._send(page_after(found)), found)
            found += page
            if len(page) < requests.PAGE:
                return found

    def _follow(self, job: Job, on_progress: OnProgress) -> AdaptResponse:
        """Report the job until it is over. An exception cancels it."""
        number = job.job
        try:
            with contextlib.closing(self._changes(number)) as changes:
                for job in changes:
                    on_progress(job)
                    if jobs.is_over(job):
                        break
        except BaseException as error:
            error.add_note(self._cancel(number))
            raise
        return jobs.outcome(job)

    def _changes(self, number: str) -> Generator[Job]:
        """Yield the job from its stream of events; once that breaks off, from polls."""
        with (
            contextlib.suppress(httpx.HTTPError, ServiceUnreachable),
            connect_sse(self._http, "GET", requests.job_events(number)) as stream,
        ):
            for event in stream.iter_sse():
                if event.event != "first":  # a version, which the next event contains too
                    yield jobs.read(event.data)
        retrying = tenacity.Retrying(sleep=self._sleep, **jobs.POLLING)
        while True:
            yield retrying(self._send, requests.job(number))
            self._sleep(jobs.POLL_S)

    def _cancel(self, number: str) -> str:
        try:
            return jobs.cancellation_note(self._send(requests.cancel_job(number)))
        except ClientError as error:
            return f"job {number} could not be cancelled: {error}"
