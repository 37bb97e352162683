"""The jobs of `POST /adapt` with `Prefer: respond-async`: read, follow and cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.errors import UnknownJob
from service.http.dependencies import ContextDep
from service.http.openapi import problems
from service.http.routes.adapt import job_response
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


async def _job(
    request: Request, context: ContextDep, number: Annotated[str, Path(alias="job", description="number of a job")]
) -> Job:
    return context.jobs.get(number, caller_of(request).can_access)


JobDep = Annotated[Job, Depends(_job)]


@router.get("", summary="Get a job", dependencies=[require_scope("adapt")])
async def get_job(job: JobDep) -> schemas.Job:
    """Get the progress and the result of a job. Jobs end with the process that runs them."""
    return job_response(job)


@router.delete("", summary="Cancel a job", dependencies=[require_scope("adapt")])
async def cancel_job(job: JobDep) -> schemas.Job:
    """Cancel a job, so that it makes no version. A job that has ended, or is storing its version, does not change."""
    job.cancel()
    return job_response(job)


@router.get(
    "/events",
    summary="Follow a job",
    dependencies=[require_scope("adapt")],
    response_class=EventSourceResponse,
)
async def follow_job(job: JobDep) -> AsyncIterable[ServerSentEvent]:
    """Follow a job by server-sent events.

    The event `progress` has the job. The event `first` has the version from prototypes, if one was requested. The last
    event is `done`, `failed` or `cancelled` and has the job.
    """
    with job.followed() as changed:
        first_sent = False
        while True:
            changed.clear()
            current = job_response(job)
            if current.first is not None and not first_sent:
                first_sent = True
                yield ServerSentEvent(event="first", raw_data=current.first.model_dump_json())
            if current.state in {"done", "failed", "cancelled"}:
                yield ServerSentEvent(event=current.state, raw_data=current.model_dump_json())
                return
            yield ServerSentEvent(event="progress", raw_data=current.model_dump_json())
            await asyncio.sleep(_EVENT_INTERVAL_S)
            await changed.wait()
