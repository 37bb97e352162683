"""The jobs of `POST /adapt` with `Prefer: respond-async`: read, follow and cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.bootstrap import Services
from service.errors import UnknownJob, client_deleted
from service.http.dependencies import ServicesDep
from service.http.openapi import problems
from service.http.routes.adapt import job_response, problem_details
from service.http.schemas import resources as schemas
from service.http.scopes import caller_of, require_scope
from service.usecases.jobs import Job

router = APIRouter(
    prefix="/jobs/{job}",
    tags=["adapt"],
    responses=problems(UnknownJob),
)

_EVENT_INTERVAL_S: Final = 0.1
"""Minimum time between two events. Changes in between are combined."""

_POLL_S: Final = 0.25
"""Seconds between two reads of a job that another process may run."""

JobId = Annotated[str, Path(alias="job", description="number of a job")]


def _job(request: Request, services: ServicesDep, number: JobId) -> Job:
    return services.jobs.get(number, caller_of(request).can_access)


JobDep = Annotated[Job, Depends(_job)]


@router.get("", summary="Get a job", dependencies=[require_scope("adapt")])
def get_job(job: JobDep) -> schemas.Job:
    """Get the progress and the result of a job. Any worker can answer.

    If the worker that runs the job dies, the job ends as `failed` within half a minute, with the problem
    `worker_lost`.
    """
    return job_response(job)


@router.delete("", summary="Cancel a job", dependencies=[require_scope("adapt")])
def cancel_job(request: Request, services: ServicesDep, number: JobId) -> schemas.Job:
    """Cancel a job, so that it makes no version. A job that has ended does not change."""
    return job_response(services.jobs.cancel(number, caller_of(request).can_access))


@router.get(
    "/events",
    summary="Follow a job",
    dependencies=[require_scope("adapt")],
    response_class=EventSourceResponse,
)
async def follow_job(request: Request, services: ServicesDep, job: JobDep) -> AsyncIterable[ServerSentEvent]:
    """Follow a job by server-sent events.

    The event `progress` has the job. The event `first` has the version from prototypes, if one was requested. The last
    event is `done`, `failed` or `cancelled` and has the job.
    """
    can_access = caller_of(request).can_access
    first_sent, sent = False, ""
    with services.jobs.followed(job.id) as changed:
        while True:
            changed.clear()
            current = await _current(services, job, can_access)
            if current.first is not None and not first_sent:
                first_sent = True
                yield ServerSentEvent(event="first", raw_data=current.first.model_dump_json())
            data = current.model_dump_json()
            if current.state in {"done", "failed", "cancelled"}:
                yield ServerSentEvent(event=current.state, raw_data=data)
                return
            if data != sent:
                sent = data
                yield ServerSentEvent(event="progress", raw_data=data)
            await asyncio.sleep(_EVENT_INTERVAL_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _POLL_S)


async def _current(services: Services, job: Job, can_access: Callable[[str], bool]) -> schemas.Job:
    """Read a job again. One that is not there any more has failed, because its client was deleted."""
    try:
        return job_response(await to_thread.run_sync(services.jobs.get, job.id, can_access))
    except UnknownJob:
        problem = problem_details(client_deleted(job.client), f"/jobs/{job.id}")
        return job_response(replace(job, state="failed", first=None, problem=problem.model_dump()))
