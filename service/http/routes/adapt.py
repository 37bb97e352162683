"""POST /adapt: labelled images in, a new version out."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, Final, cast

import structlog
from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response
from starlette.requests import ClientDisconnect

from service.domain.names import validate_client_name, validate_idempotency_key
from service.domain.version import Idempotency
from service.errors import DeadlinePassed, NoSamples
from service.http import responses as views
from service.http.archives import unpack
from service.http.dependencies import Context, ContextDep, problems
from service.http.errors import FieldDuplicate, FieldsConflict
from service.http.forms import Form, FormShape, read_form
from service.http.middleware.auth import ADAPTING
from service.http.middleware.logging import NOTES
from service.http.problems import problem_of
from service.http.schemas import resources as schemas
from service.http.schemas.reports import Report
from service.http.schemas.resources import Job as JobInfo
from service.http.waiting import answered
from service.runtime.job_control import JobControl
from service.settings import Settings
from service.usecases.adapt import AdaptCommand, AdaptOutcome
from service.usecases.jobs import Job
from service.usecases.uploads import Upload

router = APIRouter(tags=["adapt"])

_SHAPE: Final = FormShape(
    single=frozenset({"client", "mode", "steps", "learning_rate", "seed", "first", "publish"}),
    repeated=frozenset({"labels"}),
    files=frozenset({"samples", "archive"}),
)
_HIGHEST_SEED: Final = 2**63 - 1
_RECORDING_S: Final = 10.0
"""How long an answer is waited for beyond its deadline, where the version was being recorded when the time was over."""
_FILES: Final[dict[str, Any]] = {"type": "array", "items": {"type": "string", "format": "binary"}}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["client"],
                    "properties": {
                        "client": {"type": "string", "examples": ["demo"], "description": "made if it is new"},
                        "samples": {**_FILES, "description": "images, each with a label at the same place in `labels`"},
                        "labels": {
                            "type": "array",
                            "items": {"type": "string", "examples": ["scratch"]},
                            "description": "one a sample",
                        },
                        "archive": {
                            "type": "string",
                            "format": "binary",
                            "description": "instead of samples and labels: a zip with one folder a class",
                        },
                        "mode": {
                            "type": "string",
                            "enum": ["extend", "replace"],
                            "default": "extend",
                            "description": "extend keeps the client's earlier samples; replace starts afresh",
                        },
                        "steps": {
                            "type": "integer",
                            "minimum": 0,
                            "examples": [""],
                            "description": "inner steps; empty: the recipe's",
                        },
                        "learning_rate": {
                            "type": "number",
                            "exclusiveMinimum": 0,
                            "maximum": 1e6,
                            "examples": [""],
                            "description": "of the inner steps; empty: the recipe's",
                        },
                        "seed": {
                            "type": "integer",
                            "minimum": 0,
                            "examples": [""],
                            "description": "of the random draws; empty: the service's",
                        },
                        "first": {
                            "type": "string",
                            "enum": ["prototypes"],
                            "description": "with respond-async: a version without inner steps before the one asked for",
                        },
                        "publish": {
                            "type": "string",
                            "enum": ["auto", "always", "never"],
                            "default": "auto",
                            "description": "auto: the gate decides whether the version goes live",
                        },
                    },
                },
                "encoding": {"labels": {"style": "form", "explode": True}},
            }
        },
    }
}


@router.post(
    "/adapt",
    status_code=201,
    summary="Adapt to labelled images",
    response_model=schemas.AdaptResponse,
    responses={
        202: {"model": JobInfo, "description": "accepted as a job"},
        **problems(400, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def adapt(
    request: Request,
    response: Response,
    context: ContextDep,
    key: Annotated[
        str | None, Header(alias="Idempotency-Key", description="the same key and body get the same answer")
    ] = None,
    prefer: Annotated[str, Header(description="respond-async: answer 202 with a job, and adapt meanwhile")] = "",
) -> schemas.AdaptResponse | Response:
    """Make a new version of a client from labelled images, and put it live unless its examination says otherwise.

    Send `samples` with as many `labels` in the same order, or an `archive`: a zip with one folder a class.
    With `Prefer: respond-async` the answer is a job, to be followed at its `Location`; a service of several workers
    answers with the version all the same, because a job is known to one of them alone.
    """
    context.adapt_limit.refuse_when_full()
    form = await read_form(request, _SHAPE, context.settings)
    client = validate_client_name(form.fields.required("client"))
    asked = partial(_command, form, client, key, context.settings)
    if context.settings.workers == 1 and "respond-async" in _preferences(prefer):
        return await _accepted(request, context, client, asked)
    if form.fields.text("first") is not None:
        raise FieldsConflict(
            "field 'first' goes with 'Prefer: respond-async', and to a service of one worker: otherwise there is one "
            "answer, at the end; leave the field out"
        )
    outcome = await _outcome(request, context, asked)
    draft = outcome.version.draft
    request.scope[NOTES].update(client=client, version=outcome.version.number, weights_digest=draft.weights_digest)
    answer = views.adapted(outcome)
    _observe(context, answer.report)
    response.headers["Location"] = f"/clients/{client}/versions/{answer.version}"
    return answer


async def _outcome(request: Request, context: Context, asked: Callable[[], AdaptCommand]) -> AdaptOutcome:
    """What comes of an adaptation while somebody waits for it; without one it is ended, and makes no version.

    Raises:
        ClientDisconnect: the other side has gone.
        DeadlinePassed: its time is over.
        And whatever the adaptation ends with.
    """
    ticket = JobControl(context.settings.adapt_s)
    work: Future[AdaptOutcome] | None = None
    try:
        work = await to_thread.run_sync(_begun, context, asked, ticket)
        return await answered(request, context.mailbox.expect(work), context.settings.adapt_s)
    except (ClientDisconnect, DeadlinePassed) as over:
        if work is None or ticket.stop(over) or isinstance(over, ClientDisconnect):
            raise
        return await answered(request, context.mailbox.expect(work), _RECORDING_S)
    finally:
        ticket.stop(ClientDisconnect())


async def _accepted(request: Request, context: Context, client: str, asked: Callable[[], AdaptCommand]) -> Response:
    """Leave it to a job, which keeps the caller's share until it is over."""
    ticket = JobControl(context.settings.adapt_s, include_waiting=False)
    job = context.jobs.add(client, ticket, await to_thread.run_sync(_begun, context, asked, ticket))
    share: ExitStack = request.scope[ADAPTING].pop_all()
    context.mailbox.expect(job.work).add_done_callback(lambda answer: _over(context, job, share, answer))
    headers = {"Location": f"/jobs/{job.number}", "Preference-Applied": "respond-async"}
    return Response(views.job(job).model_dump_json(), 202, headers, "application/json")


def _over(context: Context, job: Job, share: ExitStack, answer: asyncio.Future[AdaptOutcome]) -> None:
    share.close()
    context.jobs.ended(job)
    error = None if answer.cancelled() else answer.exception()
    if isinstance(error, Exception):
        if problem_of(error) is None:
            structlog.get_logger("anole.jobs").error("job failed", job=job.number, exc_info=error)
    elif not answer.cancelled():
        _observe(context, views.adapted(answer.result()).report)


def _preferences(header: str) -> set[str]:
    """The preferences of RFC 7240 that a header names, without their parameters."""
    return {part.partition(";")[0].strip().lower() for part in header.split(",")}


def _begun(context: Context, asked: Callable[[], AdaptCommand], ticket: JobControl) -> Future[AdaptOutcome]:
    """Unpack, look the request up, and queue it; that blocks, and so belongs into a thread."""
    return context.adapt_limit.submitted(partial(context.services.adaptation.submit, asked(), ticket))


def _command(form: Form, client: str, key: str | None, settings: Settings) -> AdaptCommand:
    fields = form.fields
    uploads, labels = _samples(form, settings)
    return AdaptCommand(
        client=client,
        uploads=uploads,
        labels=labels,
        mode=cast(Any, fields.choice("mode", {"extend", "replace"}, "extend")),
        steps=fields.integer("steps", 0, settings.max_steps),
        learning_rate=fields.positive("learning_rate"),
        seed=fields.integer("seed", 0, _HIGHEST_SEED),
        first=cast(Any, fields.choice("first", {"prototypes"}, "")) or None,
        publish=cast(Any, fields.choice("publish", {"auto", "always", "never"}, "auto")),
        idempotency=None if key is None else Idempotency(validate_idempotency_key(key), _digest(form)),
    )


def _samples(form: Form, settings: Settings) -> tuple[tuple[Upload, ...], tuple[str, ...]]:
    """The images and their labels, from either way of sending them."""
    samples, archives, labels = form.files.get("samples", ()), form.files.get("archive", ()), form.fields.all("labels")
    if len(archives) > 1:
        raise FieldDuplicate(f"field 'archive' is given {len(archives)} times; give it once")
    if not archives:
        if not samples:
            raise NoSamples("there is no sample; send files as 'samples' with their 'labels', or a zip as 'archive'")
        return samples, labels
    if samples or labels:
        raise FieldsConflict("an archive brings its own labels; send either 'archive' or 'samples' with 'labels'")
    return unpack(archives[0], settings)


def _digest(form: Form) -> str:
    """SHA-256 over everything the form asks for; how the sender drew the boundaries does not count."""
    files = [
        [field, upload.name, hashlib.sha256(upload.content).hexdigest()]
        for field, uploads in sorted(form.files.items())
        for upload in uploads
    ]
    asked = json.dumps({"fields": dict(form.fields.texts), "files": files}, sort_keys=True)
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


def _observe(context: Context, report: Report) -> None:
    for part, seconds in report.seconds:
        context.telemetry.adapt_seconds.labels(part).observe(seconds)
    context.telemetry.versions.labels(report.gate.decision).inc()
