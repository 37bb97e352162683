"""What the replicas of the two deployments do: predict, and adapt. Each is a whole service without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial

import structlog
from anyio import to_thread

from models.errors import AnoleError
from service.bootstrap import Services
from service.cluster.remote import AdaptRequest, PredictAnswer, PredictRequest
from service.domain.audit import acting_as
from service.errors import JobCancelled
from service.http.routes.adapt import problem_details
from service.runtime.adapt_queue import JobControl
from service.usecases.adapt_command import AdaptOutcome


class Predictor:
    """Predicts for other processes.

    Args:
        services: the use cases of this process.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def predict(self, request: PredictRequest) -> PredictAnswer | AnoleError:
        """Return the predictions, or the error of the request."""
        use_case = self._services.explained if request.explain else self._services.prediction
        try:
            work = use_case.submit(request.client, request.uploads, request.reference, request.caller)
            outcome = await asyncio.wrap_future(work)
        except AnoleError as error:
            return error
        return PredictAnswer(outcome.served, outcome.predictions, outcome.seconds)


class Adapter:
    """Adapts for other processes. It runs the jobs, renews their leases, and writes how they end.

    Args:
        services: the use cases of this process.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def adapt(self, request: AdaptRequest) -> AsyncIterator[AdaptOutcome | AnoleError | None]:
        """Yield None once the job exists, then the outcome; or an error instead of either.

        The adaptation goes on if its sender is lost. Only the end of its job stops it.
        """
        control = JobControl(request.limit_s, include_waiting=request.include_waiting)
        try:
            work = await to_thread.run_sync(self._submit, request, control)
        except AnoleError as error:
            yield error
            return
        yield None
        try:
            outcome = await asyncio.shield(asyncio.wrap_future(work))
        except AnoleError as error:
            yield error
        except asyncio.CancelledError:
            if not work.cancelled():  # the sender is lost
                raise
            yield JobCancelled(f"job {request.command.job} was cancelled")
        else:
            yield outcome

    def _submit(self, request: AdaptRequest, control: JobControl) -> Future[AdaptOutcome]:
        with acting_as(request.actor):
            work = self._services.adaptation.submit(request.command, control)
        work.add_done_callback(partial(self._end, request.command.job or ""))
        return work

    def _end(self, job_id: str, work: Future[AdaptOutcome]) -> None:
        """Record how a job has ended, in the thread in which it did."""
        error = None if work.cancelled() else work.exception()
        if error is not None and not isinstance(error, AnoleError):
            structlog.get_logger("anole.jobs").error("job failed", job=job_id, exc_info=error)
            error = RuntimeError("the job was interrupted")
        problem = None if error is None else problem_details(error, f"/jobs/{job_id}").model_dump()
        self._services.jobs.end(job_id, work, problem)
