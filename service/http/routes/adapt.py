"""POST /adapt: makes a version from labelled images."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar, cast

import structlog
from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.requests import ClientDisconnect

from service import errors
from service.domain.job import new_job_id
from service.domain.report import report_fields
from service.domain.version import Idempotency, Version, validate_idempotency_key
from service.errors import DeadlinePassed, NoSamples, worker_lost
from service.http.archives import unpack
from service.http.dependencies import Context, ContextDep, OnlyIfAbsent, QueryNames, wait_for
from service.http.log_fields import log_fields
from service.http.middleware.admission import Slot
from service.http.middleware.auth import ADAPTING
from service.http.middleware.limits import SLOT
from service.http.openapi import ADAPT, ADAPT_ONCE, IMAGES, QUERY, UPLOAD, problems
from service.http.problems import (
    ArchiveTooLarge,
    ConflictingFields,
    DuplicateField,
    InvalidArchive,
    InvalidPrecondition,
    error_response,
    problem_of,
)
from service.http.schemas import resources as schemas
from service.http.schemas.base import ProblemDetails
from service.http.schemas.reports import Report
from service.http.scopes import ClientPath, accessible_client, require_scope
from service.http.uploads import GIVEN, GIVEN_FORM, MAX_NUMBER, Fields, Form, FormShape, read_form, with_given
from service.runtime.adapt_queue import JobControl
from service.runtime.decoder import Upload
from service.settings import Settings
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from service.usecases.jobs import Job

router = APIRouter(tags=["adapt"])

Made = TypeVar("Made", bound=schemas.AdaptResponse)

_SHAPE: Final = FormShape(
    single=frozenset({"client", "mode", "steps", "learning_rate", "seed", "first", "publish"}),
    repeated=frozenset({"labels", "parts"}) | GIVEN,
    files=frozenset({"samples", "archive"}),
)
_MAX_SEED: Final = 2**63 - 1
_STORE_S: Final = 10.0
"""How much longer to wait for an adaptation whose version was being stored at its time limit."""

_EMPTY: Final[dict[str, Any]] = {"examples": [""]}  # so that Swagger UI leaves the field empty
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["client"],
    "properties": {
        "client": {"type": "string", "examples": ["my-line"], "description": "created if it does not exist"},
        "samples": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "image files",
        },
        "labels": {
            "type": "array",
            "items": {"type": "string", "examples": ["scratch"]},
            "description": "one label per sample, in the same order",
        },
        "parts": {
            "type": "array",
            "items": {"type": "string", "examples": ["part-0417"]},
            "description": "optional, one per sample, in the same order: the physical part that the sample shows. "
            "Cross-validation never tests on a part that it has learned from, so send it if parts are photographed "
            "more than once",
        },
        **GIVEN_FORM,
        "archive": {
            "type": "string",
            "format": "binary",
            "description": "instead of samples and labels: a zip file with one folder per class",
        },
        "mode": {
            "type": "string",
            "enum": ["extend", "replace"],
            "default": "extend",
            "description": "extend: keep the samples that were sent before, except those of versions that were rolled "
            "back; replace: use only the new ones",
        },
        "steps": {
            "type": "integer",
            "minimum": 0,
            **_EMPTY,
            "description": "inner steps; empty: the model's default. A model whose default is 0 computes its head in "
            "closed form, and steps change next to nothing",
        },
        "learning_rate": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MAX_NUMBER,
            **_EMPTY,
            "description": "learning rate of the inner steps; empty: the model's default",
        },
        "seed": {"type": "integer", "minimum": 0, "maximum": _MAX_SEED, **_EMPTY, "description": "empty: 0"},
        "first": {
            "type": "string",
            "enum": ["", "prototypes"],
            "default": "",
            "description": "with `Prefer: respond-async`: also make a version from prototypes, without inner steps, "
            "which is ready sooner; not if there are no inner steps anyway",
        },
        "publish": {
            "type": "string",
            "enum": ["auto", "always", "never"],
            "default": "auto",
            "description": "auto: the gate decides whether the version goes live",
        },
    },
}


@dataclass(frozen=True, slots=True)
class AdaptHeaders:
    """The headers of a request to adapt that may be repeated, or run as a job.

    Attributes:
        key: value of `Idempotency-Key`.
        prefer: value of `Prefer` (RFC 7240).
    """

    key: str | None
    prefer: str

    def idempotency(self, body_digest: str) -> Idempotency | None:
        """Return what identifies repetitions of the request, or None without a key. Raises InvalidRequest."""
        return None if self.key is None else Idempotency(validate_idempotency_key(self.key), body_digest)

    @property
    def run_as_job(self) -> bool:
        """Whether to answer with a job."""
        return "respond-async" in {part.partition(";")[0].strip().lower() for part in self.prefer.split(",")}


async def _adapt_headers(
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="repetitions with the same key and body get the first answer"),
    ] = None,
    prefer: Annotated[str, Header(description="respond-async: run as a job and answer 202")] = "",
) -> AdaptHeaders:
    return AdaptHeaders(key, prefer)


AdaptHeadersDep = Annotated[AdaptHeaders, Depends(_adapt_headers)]


@router.post(
    "/adapt",
    status_code=201,
    summary="Adapt to labelled images",
    response_model=schemas.AdaptResponse,
    dependencies=[require_scope("adapt")],
    responses={
        202: {"model": schemas.Job, "description": "Accepted as a job; `Location` is its path"},
        **problems(
            *UPLOAD,
            *IMAGES,
            *ADAPT_ONCE,
            InvalidArchive,
            ArchiveTooLarge,
            errors.NoSamples,
            errors.LabelCountMismatch,
            errors.PartCountMismatch,
            errors.ModalityCountMismatch,
            errors.ModalityUnsupported,
            errors.ConflictingLabels,
            errors.ClientExists,
            InvalidPrecondition,
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": _FORM,
                    "encoding": {
                        name: {"style": "form", "explode": True} for name in ("labels", "parts", *sorted(GIVEN))
                    },
                }
            },
        }
    },
)
async def adapt(
    request: Request,
    response: Response,
    context: ContextDep,
    headers: AdaptHeadersDep,
    new_client: OnlyIfAbsent,
) -> schemas.AdaptResponse | Response:
    """Make a new version of a client from labelled images. The gate decides whether it goes live.

    Send `samples` and as many `labels` in the same order, or an `archive`, which is a zip file with one folder per
    class.

    For a non-blocking call, request a job with `Prefer: respond-async` and follow it at its `Location`.

    With `If-None-Match: *`, the request makes a version only if it creates the client. Of two such requests for one
    name, the second gets the problem `client_exists`.
    """
    created_at: datetime | None = None

    async def identify(name: str) -> None:
        nonlocal created_at
        created_at = await to_thread.run_sync(context.services.clients.created_at, accessible_client(request, name))

    form = await read_form(request, _SHAPE, context.settings, identify)
    client = accessible_client(request, form.fields.required("client"))

    def make_command() -> AdaptCommand:
        command = _command(form, client, headers, request.scope[SLOT], context.settings)
        return replace(command, client_created_at=created_at, new_client=new_client)

    if _first(form.fields) and not headers.run_as_job:
        raise ConflictingFields("field 'first' requires 'Prefer: respond-async'; send that header, or leave it out")
    return await adapt_or_start_job(request, response, context, headers, client, make_command)


@router.post(
    "/clients/{client}/upgrade",
    status_code=201,
    summary="Upgrade to the client's model",
    dependencies=[require_scope("adapt"), Depends(QueryNames("publish"))],
    responses=problems(*ADAPT, *QUERY, errors.NothingToUpgrade),
)
async def upgrade_client(
    client: ClientPath,
    request: Request,
    response: Response,
    context: ContextDep,
    publish: Annotated[
        Literal["auto", "always", "never"], Query(description="auto: the gate decides whether the version goes live")
    ] = "auto",
) -> schemas.UpgradeResponse:
    """Adapt the stored samples of the live version anew, with the client's present `model` and `uncertainty`.

    The gate compares the new version with the live one. If it is held, the live version stays.
    """

    def make_command() -> AdaptCommand:
        created_at = context.services.clients.created_at(client)
        return AdaptCommand(client, (), (), mode="upgrade", publish=publish, client_created_at=created_at)

    outcome = await _adapt(request, context, make_command)
    before = None if outcome.earlier is None else _earlier_version(outcome.earlier)
    answer = schemas.UpgradeResponse(**dict(adapt_response(outcome)), before=before)
    return _answered(request, response, context, answer)


async def adapt_or_start_job(
    request: Request,
    response: Response,
    context: Context,
    headers: AdaptHeaders,
    client: str,
    make_command: Callable[[], AdaptCommand],
) -> schemas.AdaptResponse | Response:
    """Adapt as `make_command` says, which is called in a thread, and answer with the version or with a job."""
    if headers.run_as_job:
        return await _start_job(request, context, client, make_command)
    outcome = await _adapt(request, context, make_command)
    return _answered(request, response, context, adapt_response(outcome))


async def _adapt(request: Request, context: Context, make_command: Callable[[], AdaptCommand]) -> AdaptOutcome:
    """Adapt, and stop without a version if the client disconnects or the time limit is exceeded.

    Raises:
        ClientDisconnect: the client has disconnected.
        DeadlinePassed: the time limit was exceeded.
        And all errors of the adaptation.
    """
    control = JobControl(context.settings.adapt_s)
    work: Future[AdaptOutcome] | None = None
    try:
        work = await to_thread.run_sync(_submit, request, context, make_command, control)
        return await wait_for(request, work, context.settings.adapt_s, setting="ANOLE_ADAPT_S")
    except (ClientDisconnect, DeadlinePassed) as error:
        if work is None or await to_thread.run_sync(control.stop, error) or isinstance(error, ClientDisconnect):
            raise
        return await wait_for(request, work, _STORE_S)  # too late to stop: the version is being stored
    finally:
        control.stop(ClientDisconnect())


async def _start_job(
    request: Request, context: Context, client: str, make_command: Callable[[], AdaptCommand]
) -> Response:
    """Adapt in a job, which counts as an adaptation of the caller until it has ended."""
    control, job_id = JobControl(context.settings.adapt_s, include_waiting=False), new_job_id()

    def make_job() -> AdaptCommand:
        return replace(make_command(), job=job_id)

    work = await to_thread.run_sync(_submit, request, context, make_job, control)
    adapting: ExitStack = request.scope[ADAPTING].pop_all()
    asyncio.wrap_future(work).add_done_callback(lambda _: adapting.close())
    work.add_done_callback(partial(_end_job, context, job_id, client))
    job = await to_thread.run_sync(context.services.jobs.get, job_id, lambda _: True)
    headers = {"Location": f"/jobs/{job.id}", "Preference-Applied": "respond-async"}
    return Response(job_response(job).model_dump_json(), 202, headers, "application/json")


def _end_job(context: Context, job_id: str, client: str, work: Future[AdaptOutcome]) -> None:
    """Record how a job has ended, in the thread in which it did."""
    log, error = structlog.get_logger("anole.jobs").bind(job=job_id, client=client), _error_of(work)
    if error is not None:
        problem = problem_of(error)
        context.services.jobs.end(job_id, work, problem_details(error, f"/jobs/{job_id}").model_dump())
        if problem is None:
            log.error("job failed", exc_info=error)
        else:
            log.info("job", state="failed", code=problem.code)
    elif work.cancelled():
        context.services.jobs.end(job_id, work)
        log.info("job", state="cancelled")
    else:
        _record_metrics(context, adapt_response(work.result()).report)
        context.services.jobs.end(job_id, work)
        log.info("job", state="done", version=work.result().version.number)


def _error_of(work: Future[AdaptOutcome]) -> Exception | None:
    """The error that work has ended with, if it has."""
    error = None if work.cancelled() else work.exception()
    return error if error is None or isinstance(error, Exception) else RuntimeError("the job was interrupted")


def _submit(
    request: Request, context: Context, make_command: Callable[[], AdaptCommand], control: JobControl
) -> Future[AdaptOutcome]:
    """Unpack the samples and queue the adaptation. Blocks, so call it in a thread."""
    slot: Slot = request.scope[SLOT]
    work = context.services.adaptation.submit(make_command(), control)
    slot.hold_until_done(work)
    return work


def _command(form: Form, client: str, headers: AdaptHeaders, slot: Slot, settings: Settings) -> AdaptCommand:
    fields = form.fields
    uploads, labels = _samples(form, slot, settings)
    return AdaptCommand(
        client=client,
        uploads=uploads,
        labels=labels,
        parts=fields.all("parts"),
        mode=cast(Any, fields.choice("mode", {"extend", "replace"}, "extend")),
        steps=fields.integer("steps", 0, settings.max_steps, "ANOLE_MAX_STEPS"),
        learning_rate=fields.positive("learning_rate"),
        seed=fields.integer("seed", 0, _MAX_SEED),
        first=cast(Any, _first(fields)) or None,
        publish=cast(Any, fields.choice("publish", {"auto", "always", "never"}, "auto")),
        caller=slot.caller,
        idempotency=headers.idempotency(_digest(form)),
    )


def _first(fields: Fields) -> str:
    return fields.choice("first", {"prototypes"}, "")


def _samples(form: Form, slot: Slot, settings: Settings) -> tuple[tuple[Upload, ...], tuple[str, ...]]:
    """Return images and labels, from samples or from an archive."""
    samples, archives = form.files.get("samples", ()), form.files.get("archive", ())
    labels, parts = form.fields.all("labels"), form.fields.all("parts")
    if len(archives) > 1:
        raise DuplicateField(f"field 'archive' was given {len(archives)} times; give it once")
    if not archives:
        if not samples:
            raise NoSamples("no samples were sent; send files as 'samples' with 'labels', or a zip file as 'archive'")
        return with_given(form.fields, samples), labels
    if samples or labels or parts or GIVEN.intersection(form.fields.texts):
        raise ConflictingFields(
            "'archive' contains the labels and no parts; send either 'archive' or 'samples' with 'labels' and 'parts', "
            "'texts' or 'vectors'"
        )
    return unpack(archives[0], settings, slot.take_memory)


def _digest(form: Form) -> str:
    """Return the SHA-256 of all fields and files. It does not depend on the boundary of the form."""
    files = [
        [field, upload.name, hashlib.sha256(upload.content).hexdigest()]
        for field, uploads in sorted(form.files.items())
        for upload in uploads
    ]
    content = json.dumps({"fields": dict(form.fields.texts), "files": files}, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _answered(request: Request, response: Response, context: Context, answer: Made) -> Made:
    """Log and count the version of an answer, and add its location."""
    log_fields(request.scope, client=answer.client, version=answer.version, weights_digest=answer.weights.digest)
    _record_metrics(context, answer.report)
    response.headers["Location"] = f"/clients/{answer.client}/versions/{answer.version}"
    return answer


def _record_metrics(context: Context, report: Report) -> None:
    for part, seconds in report.seconds:
        context.telemetry.adapt_seconds.labels(part).observe(seconds)
    context.telemetry.versions.labels(report.gate.decision).inc()


def adapt_response(outcome: AdaptOutcome) -> schemas.AdaptResponse:
    """Return the answer of POST /adapt."""
    draft = outcome.version.draft
    return schemas.AdaptResponse(
        client=draft.client,
        version=outcome.version.number,
        parent=draft.parent,
        classes=list(draft.classes),
        published=outcome.published,
        live=outcome.live,
        model=draft.meta_model,
        weights=schemas.Weights(digest=draft.weights_digest, bytes=draft.weights_bytes),
        report=Report.model_validate(report_fields(draft)),
    )


def _earlier_version(version: Version) -> schemas.EarlierVersion:
    report = version.draft.report
    return schemas.EarlierVersion(
        version=version.number,
        model=version.draft.meta_model,
        estimated_accuracy=report.get("estimated_accuracy"),
        interval=report.get("interval"),
    )


def job_response(job: Job) -> schemas.Job:
    """Return the state of a job."""
    progress, problem, path = job.progress, None, f"/jobs/{job.id}"
    if job.state == "failed":
        problem = ProblemDetails(**job.problem) if job.problem else problem_details(worker_lost(job.id), path)
    return schemas.Job(
        job=job.id,
        client=job.client,
        state=job.state,
        stage=progress.stage,
        steps=schemas.JobSteps(done=progress.steps_done, of=progress.steps, loss=progress.loss),
        first=None if job.first is None else adapt_response(job.first),
        result=None if job.result is None else adapt_response(job.result),
        problem=problem,
        created_at=job.created_at,
    )


def problem_details(error: Exception, path: str) -> ProblemDetails:
    """Return an error as the body of a response would have it."""
    return ProblemDetails.model_validate_json(bytes(error_response(error, path).body))
