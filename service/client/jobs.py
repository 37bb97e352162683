"""What the clients need to follow and cancel a job, blocking or async."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tenacity import retry_if_exception_type, stop_after_attempt, wait_fixed

from service.client.errors import ServiceProblem, ServiceUnreachable
from service.http.schemas.base import ProblemDetails
from service.http.schemas.resources import AdaptResponse, Job

OnProgress = Callable[[Job], object]
"""Called with the job each time it has changed."""

POLL_S: Final = 1.0
"""Seconds between two polls, once the stream of events has broken off."""

POLLING: Final[Mapping[str, Any]] = {
    "stop": stop_after_attempt(5),
    "retry": retry_if_exception_type(ServiceUnreachable),
    "wait": wait_fixed(POLL_S),
    "reraise": True,
}
"""Arguments of `tenacity.Retrying` for a poll that gets no response."""

CANCEL_S: Final = 10.0
"""Seconds that a cancelled coroutine waits for its job to be cancelled."""


def read(data: str) -> Job:
    """Read the job from an event's data. Raises ServiceUnreachable if it is not a job."""
    try:
        return Job.model_validate_json(data)
    except ValueError as error:
        raise ServiceUnreachable("an event is not from an Anole service; check the address") from error


def is_over(job: Job) -> bool:
    """Whether the job has ended."""
    return job.state in {"done", "failed", "cancelled"}


def outcome(job: Job) -> AdaptResponse:
    """Return the version that a job created.

    Raises:
        ServiceProblem: the job failed or was cancelled.
        ServiceUnreachable: the job has neither a result nor a problem.
    """
    if job.state == "done" and job.result is not None:
        return job.result
    problem = _cancelled(job) if job.state == "cancelled" else job.problem
    if problem is None:
        raise ServiceUnreachable(f"job {job.job} has ended without a result; check that the address is right")
    raise ServiceProblem(problem, request_id=job.job)


def cancellation_note(job: Job) -> str:
    """Say what a request to cancel the job achieved."""
    if job.result is not None:
        return f"job {job.job} had already created version {job.result.version} and could not be cancelled"
    if not is_over(job):
        return f"job {job.job} is already recording its version and cannot be cancelled"
    if job.state != "cancelled":
        return f"job {job.job} had already failed"
    kept = "" if job.first is None else f"; version {job.first.version}, created first, is kept"
    return f"job {job.job} was cancelled and created no version{kept}"


def note_versions(error: BaseException, made: Sequence[AdaptResponse]) -> None:
    """Add a note to an error about the versions that the requests before it have made."""
    if made:
        numbers = " and ".join(str(response.version) for response in made)
        error.add_note(
            f"version {numbers} of {made[0].client}, not live, has the samples that were sent before; adapt again to "
            "add the others (pictures that are sent twice count once)"
        )


def _cancelled(job: Job) -> ProblemDetails:
    """The problem of a job that somebody else cancelled. The service sends none."""
    return ProblemDetails(
        type="urn:anole:problem:job_cancelled",
        title="The job was cancelled",
        status=409,
        code="job_cancelled",
        detail=f"job {job.job} was cancelled and created no version; send the adaptation again if it is still wanted",
        instance=f"/jobs/{job.job}",
    )
