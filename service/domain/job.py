"""Jobs: adaptations that any process of a store can look up, follow and cancel."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from service.domain.version import Publication

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]

Stage = Literal["waiting", "decode", "adapt", "examine", "store"]

ACTIVE: Final[frozenset[JobState]] = frozenset({"waiting", "running"})
"""The states of a job that has not ended."""

LEASE_S: Final = 30.0
"""A job whose worker has not renewed it for so long has failed: the worker is dead, or cut off from the store."""

KEPT_S: Final = 900.0
"""How long a job is kept after it has ended."""

MAX_KEPT: Final = 256
"""Jobs of one client that are kept after they have ended; the oldest are removed first."""


def new_job_id() -> str:
    """Return 128 random bits in hexadecimal."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an adaptation.

    Attributes:
        stage: the current stage.
        steps_done: inner steps done, including those of the cross-validation folds.
        steps: inner steps in total; 0 until known.
        loss: the version's loss at its last inner step; None before the first.
    """

    stage: Stage = "waiting"
    steps_done: int = 0
    steps: int = 0
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class JobVersion:
    """A version that a job has made.

    Attributes:
        number: its number.
        live: the version that was live afterwards, or None.
    """

    number: int
    live: int | None


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """What has become of a job, as its worker knows it.

    Attributes:
        id: of the job.
        state: a job that has ended never changes again.
        progress: the latest.
        first: the version from prototypes, if there is one.
        result: the version, if the job is done.
        problem: the error as HTTP reports it, if the job failed.
    """

    id: str
    state: JobState
    progress: Progress
    first: JobVersion | None = None
    result: JobVersion | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is stored.

    Attributes:
        id: 128 random bits.
        client: client of the version that it makes.
        worker: the process that runs it.
        key: its Idempotency-Key; no other job of the client with that key runs at the same time.
        created_at: UTC.
        state: the state.
        progress: as last written, at most half a second old while the job runs.
        first: the version from prototypes, if there is one.
        result: the version, if the job is done.
        problem: the error as HTTP reports it, if the job failed; None also if its worker was lost.
    """

    id: str
    client: str
    worker: str
    key: str | None
    created_at: datetime
    state: JobState = "waiting"
    progress: Progress = Progress()
    first: Publication | None = None
    result: Publication | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that a version is made for.

    Attributes:
        client_created_at: if given, the client must still be the one that was created then.
        job: what becomes of the request's job in the transaction that records the version. The job must not have ended.
            Its `result`, or its `first` if it goes on, gets that version, whatever it says here.
        new_client: whether the version must be the first thing that is stored of its client.
    """

    client_created_at: datetime | None = None
    job: JobUpdate | None = None
    new_client: bool = False


NO_ORIGIN: Final = Origin()
"""Of a version that is made for no request."""
