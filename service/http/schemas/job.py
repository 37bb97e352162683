"""The JSON of jobs: how far an adaptation is, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.http.schemas.base import Answer
from service.http.schemas.resources import Adapted, ProblemDetails
from service.runtime.job_control import Stage


class JobSteps(Answer):
    """Inner steps, those of the examination's folds included."""

    done: int
    of: int = Field(description="0 until it is known")
    loss: float | None = Field(description="that the version's last inner step began with")


class JobInfo(Answer):
    """An adaptation that runs while nobody waits on the line."""

    job: str = Field(examples=["5f1c0e4b7a3d4c2f9e8d7c6b5a493827"])
    client: str = Field(examples=["demo"])
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    stage: Stage = Field(description="what is being done, or was when it ended")
    steps: JobSteps
    first: Adapted | None = Field(description="the version by prototypes alone, if one was asked for and is made")
    result: Adapted | None = Field(description="the version, once the state is done")
    problem: ProblemDetails | None = Field(description="why there is none, once the state is failed")
    created_at: datetime
