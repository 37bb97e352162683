"""Errors that the client raises."""

from __future__ import annotations

from models.errors import AnoleError
from service.http.schemas.base import ProblemDetails


class ClientError(AnoleError):
    """Base class of the client's errors."""


class ServiceUnreachable(ClientError):
    """There is no connection, no response in time, or a response that is not from an Anole service."""


class InvalidInput(ClientError, ValueError):
    """The arguments cannot be sent, for example because a file does not exist."""


class ServiceProblem(ClientError):
    """The service responded with an error.

    Attributes:
        status: HTTP status.
        code: stable name of the problem, such as "unknown_client". Compare this in programs.
        title: short text that is the same for every occurrence.
        detail: what the service received, what it allows and what to do.
        retry_after_s: seconds after which to try again, if the service sent them.
        request_id: identifies the request in the service's log. For a failed job this is the job's number.
    """

    def __init__(self, problem: ProblemDetails, *, retry_after_s: int | None = None, request_id: str = "") -> None:
        self.status = problem.status
        self.code = problem.code
        self.title = problem.title
        self.detail = problem.detail
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        super().__init__(f"{self.code}: {self.detail}")
