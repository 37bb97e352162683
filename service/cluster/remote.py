"""The use cases of a process that has others predict and adapt. It looks up versions itself and sends on the files.

The other processes answer with an outcome or with an `AnoleError`, so that errors arrive as they were raised.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from anyio import to_thread

from models.errors import AnoleError
from service.domain.audit import Actor, current_actor
from service.domain.job import new_job_id
from service.domain.prediction import ImagePrediction
from service.domain.version import LIVE, ServedVersion
from service.errors import RETRY_BUSY_S, RETRY_STOPPING_S, DeadlinePassed, Overloaded, UnknownJob, worker_lost
from service.runtime.adapt_queue import JobControl
from service.runtime.decoder import Upload
from service.runtime.quiet import InFlight
from service.store.version_store import VersionStore
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from service.usecases.idempotency import Adapting
from service.usecases.jobs import Job, Jobs
from service.usecases.predict import (
    CandidatePredicting,
    PredictCommand,
    PredictOutcome,
    lookup,
    require_found,
    require_images,
)

_ATTEMPTS: Final = 3
"""How often a prediction is sent, if the processes that it is sent to are lost."""


class ProcessLost(Exception):
    """The process that worked on a request is dead or cannot be reached."""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A request to predict, as it is sent to another process.

    Attributes:
        client: client name.
        uploads: image files; the other process decodes them.
        reference: an alias or a version number, which the other process looks up again.
        explain: whether to explain the predictions.
        caller: who sent the request.
    """

    client: str
    uploads: tuple[Upload, ...]
    reference: str
    explain: bool
    caller: str


@dataclass(frozen=True, slots=True)
class PredictAnswer:
    """What another process predicted, see `PredictOutcome`."""

    served: ServedVersion
    predictions: tuple[ImagePrediction, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class AdaptRequest:
    """A request to adapt, as it is sent to another process.

    Attributes:
        command: what to do. It names a job.
        actor: who asks, for the audit log.
        limit_s: seconds that are left for it.
        include_waiting: whether the time in the queue of the other process counts.
    """

    command: AdaptCommand
    actor: Actor
    limit_s: float
    include_waiting: bool


Predict = Callable[[PredictRequest, str], Awaitable[PredictAnswer | AnoleError]]
"""Sends a request to a process that has the version with this identity in memory, if there is one. May raise
ProcessLost."""

Adapt = Callable[[AdaptRequest], AsyncIterator[AdaptOutcome | AnoleError | None]]
"""Sends a request to a process that yields None once the job exists, then the outcome. May raise ProcessLost."""


class RemotePrediction(CandidatePredicting):
    """Has other processes predict. Thread-safe.

    Args:
        store: finds the versions.
        predict: sends a request.
        loop: runs `predict`.
        explain: whether to explain the predictions.
    """

    def __init__(
        self, store: VersionStore, predict: Predict, loop: asyncio.AbstractEventLoop, *, explain: bool = False
    ) -> None:
        self._store = store
        self._predict = predict
        self._loop = loop
        self._explain = explain
        self.in_flight = InFlight()

    def submit(
        self, client: str, uploads: Sequence[Upload], reference: str = LIVE, caller: str = ""
    ) -> Future[PredictOutcome]:
        """See `Predicting.submit`."""
        require_images(uploads)
        work = self._start(PredictCommand(client, tuple(uploads), reference, Future()), caller)
        self.in_flight.add(work)
        return work

    def predict_now(self, command: PredictCommand) -> PredictOutcome:
        """See `CandidatePredicting.predict_now`."""
        return self._start(command, "").result()

    def close(self) -> None:
        """See `Predicting.close`. Nothing is held here."""

    def _start(self, command: PredictCommand, caller: str) -> Future[PredictOutcome]:
        return asyncio.run_coroutine_threadsafe(self._run(command, caller), self._loop)

    async def _run(self, command: PredictCommand, caller: str) -> PredictOutcome:
        client, reference = command.client, command.reference
        (found,) = await to_thread.run_sync(self._store.served, [lookup(client, reference)])
        identity = require_found(found, client, reference).identity
        request = PredictRequest(client, command.uploads, reference, self._explain, caller)
        answer = await self._sent(request, identity)
        if isinstance(answer, AnoleError):
            raise answer
        return PredictOutcome(answer.served, answer.predictions, answer.seconds, command)

    async def _sent(self, request: PredictRequest, identity: str) -> PredictAnswer | AnoleError:
        """Send a request, and send it again if the process is lost, which changes nothing."""
        for _ in range(_ATTEMPTS - 1):
            with suppress(ProcessLost):
                return await self._predict(request, identity)
        try:
            return await self._predict(request, identity)
        except ProcessLost as error:
            raise _lost(error) from error


class RemoteAdaptation(Adapting):
    """Has other processes adapt. Each adaptation is a job, because the job decides whether a version is made.

    Args:
        jobs: the jobs of the store.
        adapt: sends a request.
        loop: runs `adapt`.
    """

    def __init__(self, jobs: Jobs, adapt: Adapt, loop: asyncio.AbstractEventLoop) -> None:
        self._jobs = jobs
        self._adapt = adapt
        self._loop = loop

    def submit(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        """See `Adapting.submit`. Raises DeadlinePassed if no process accepts the request in time."""
        job_id = command.job or new_job_id()
        limit_s = control.remaining_s
        request = AdaptRequest(replace(command, job=job_id), current_actor(), limit_s, control.include_waiting)
        accepted: Future[None] = Future()
        outcome: Future[AdaptOutcome] = Future()
        outcome.set_running_or_notify_cancel()  # what stops it is its job
        following = asyncio.run_coroutine_threadsafe(self._follow(request, accepted, outcome), self._loop)
        try:
            accepted.result(None if limit_s == float("inf") else limit_s)
        except FutureTimeoutError as error:
            following.cancel()
            with suppress(UnknownJob):
                self._cancel(job_id)
            raise DeadlinePassed(
                f"no process accepted the adaptation within {limit_s:g} s (ANOLE_ADAPT_S), and no version was made; "
                f"try again in {RETRY_BUSY_S} s",
                RETRY_BUSY_S,
            ) from error
        control.on_stop(_Stop(outcome, partial(self._cancel, job_id)))
        return outcome

    def _cancel(self, job_id: str) -> bool:
        """End a job without a version; return False if it has ended otherwise."""
        return self._jobs.cancel(job_id, lambda _: True).state == "cancelled"

    async def _follow(self, request: AdaptRequest, accepted: Future[None], outcome: Future[AdaptOutcome]) -> None:
        job_id = request.command.job or ""
        try:
            async for event in self._adapt(request):
                if event is None:
                    accepted.set_result(None)
                elif isinstance(event, AnoleError):
                    raise event
                else:
                    outcome.set_result(event)
            if not outcome.done():
                raise RuntimeError(f"job {job_id} ended without an outcome")
        except ProcessLost as error:
            if not accepted.done():
                accepted.set_exception(_lost(error))
                return
            _settle(outcome, await to_thread.run_sync(_outcome_of, self._jobs, job_id))
        except Exception as error:  # noqa: BLE001 - it becomes the error of the future
            (outcome if accepted.done() else accepted).set_exception(error)


class _Stop:
    """Ends a job once, and not after its outcome is known."""

    def __init__(self, outcome: Future[AdaptOutcome], cancel: Callable[[], bool]) -> None:
        self._outcome = outcome
        self._cancel = cancel
        self._lock = threading.Lock()
        self._cancelled = False

    def __call__(self) -> bool:
        with self._lock:
            if not self._cancelled and not self._outcome.done():
                self._cancelled = self._cancel()
            return self._cancelled


def _outcome_of(jobs: Jobs, job_id: str) -> AdaptOutcome | Exception:
    """Return what a job has come to whose process is lost. Blocks."""
    try:
        job: Job = jobs.lose(job_id)
    except AnoleError as error:
        return error
    return worker_lost(job_id) if job.result is None else job.result


def _settle(outcome: Future[AdaptOutcome], found: AdaptOutcome | Exception) -> None:
    if isinstance(found, Exception):
        outcome.set_exception(found)
    else:
        outcome.set_result(found)


def _lost(error: ProcessLost) -> Overloaded:
    return Overloaded(
        f"the process that worked on the request was lost ({error}); try again in {RETRY_STOPPING_S} s",
        RETRY_STOPPING_S,
    )
