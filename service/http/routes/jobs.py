"""Jobs: adaptations that were accepted with 202. How far one is, its events, and its end before its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from service.http import responses as views
from service.http.dependencies import ContextDep, problems
from service.http.middleware.auth import CALLER
from service.http.schemas.resources import Job as JobInfo
from service.usecases.jobs import Job

router = APIRouter(prefix="/jobs/{job}", tags=["adapt"])

_EVENTS: Final = "text/event-stream"
_EVERY_S: Final = 0.1
"""At least so many seconds lie between two events; what changes meanwhile is told by the later one."""

_ALIVE_S: Final = 10.0
"""So often something is sent although nothing changes, so that nobody in between takes the line for dead."""


async def _job(
    request: Request, context: ContextDep, number: Annotated[str, Path(alias="job", description="a job's number")]
) -> Job:
    return context.jobs.get(number, request.scope[CALLER].can_access)


JobDep = Annotated[Job, Depends(_job)]


@router.get("", summary="Read a job", responses=problems(404))
async def read_job(job: JobDep) -> JobInfo:
    """How far an adaptation is, and what came of it. Jobs end with the process that accepted them."""
    return views.job(job)


@router.delete("", summary="Cancel a job", responses=problems(404))
async def cancel_job(job: JobDep) -> JobInfo:
    """End an adaptation, which then makes no version; one that is over, or being recorded, stays as it is."""
    job.cancel()
    return views.job(job)


@router.get(
    "/events",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={200: {"content": {_EVENTS: {}}, "description": "server-sent events"}, **problems(404)},
)
async def follow_job(job: JobDep) -> StreamingResponse:
    """Server-sent events: `progress` with the job, `first` with the version by prototypes if one was asked for, and at
    the end `done`, `failed` or `cancelled` with the job.
    """
    return StreamingResponse(_events(job), media_type=_EVENTS)


async def _events(job: Job) -> AsyncIterator[str]:
    with job.followed() as changed:
        first_told = False
        while True:
            changed.clear()
            now = views.job(job)
            if now.first is not None and not first_told:
                first_told = True
                yield _event("first", now.first)
            if now.state in {"done", "failed", "cancelled"}:
                yield _event(now.state, now)
                return
            yield _event("progress", now)
            await asyncio.sleep(_EVERY_S)
            while not await _set_within(changed, _ALIVE_S):
                yield ": nothing new\n\n"


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _event(kind: str, data: BaseModel) -> str:
    return f"event: {kind}\ndata: {data.model_dump_json()}\n\n"
