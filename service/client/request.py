"""A request as a value, how its response is read, and when it is sent again. Nothing is sent here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import httpx
from pydantic import ValidationError
from tenacity import RetryCallState, retry_if_result, stop_after_attempt

from service.client.errors import ServiceProblem, ServiceUnreachable
from service.http.schemas.base import ProblemDetails

T = TypeVar("T")

_ATTEMPTS: Final = 4
_LONGEST_WAIT_S: Final = 30
_BUSY: Final = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE})
_IN_FLIGHT: Final = "idempotency_in_flight"
_TOO_LATE: Final = "deadline_passed"
_IN_FLIGHT_WAIT_S: Final = 1
_LONGEST_IN_FLIGHT_S: Final = 60
"""How long to wait for the result of a request with the same idempotency key that still runs."""
_WHOLE_SECONDS: Final = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A request and the reader of its response.

    Attributes:
        method: HTTP method.
        path: path below the service's address.
        read: makes the result from the body of a successful response. Raises ValueError if the body is malformed.
        content: httpx's arguments for the content: `params`, `headers`, `files` or `json`.
        repeatable: whether sending the request twice has the same effect as sending it once.
        statuses: statuses of responses to read, beside those of success.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    content: Mapping[str, Any] = field(default_factory=dict)
    repeatable: bool = True
    statuses: frozenset[int] = frozenset()

    def retry(self, timeout: httpx.Timeout) -> dict[str, Any]:
        """Arguments of `tenacity.Retrying`: wait as long as a busy service asks, then send the request again.

        Args:
            timeout: of the client. A request whose time limit at the service has passed is sent again only within it.
        """
        return {
            "stop": functools.partial(_enough_attempts, timeout.read) if self.repeatable else stop_after_attempt(1),
            "retry": retry_if_result(_is_busy),
            "wait": _delay_s,
            "retry_error_callback": _last_response,
        }

    def result(self, response: httpx.Response) -> T:
        """Read the response.

        Raises:
            ServiceProblem: the service responded with an error.
            ServiceUnreachable: the response is not from an Anole service.
        """
        if not response.is_success and response.status_code not in self.statuses:
            raise _error(response)
        try:
            return self.read(response.content)
        except ValueError as error:
            raise ServiceUnreachable(
                f"the response to {self.method} {self.path} is not from an Anole service; check the address"
            ) from error


def unreachable(url: httpx.URL, error: httpx.HTTPError) -> ServiceUnreachable:
    """The error for a request without a response."""
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachable(f"{url} did not respond in time; try again, or check its /readyz")
    return ServiceUnreachable(f"cannot connect to {url} ({error}); is the service running there?")


def _error(response: httpx.Response) -> ServiceProblem | ServiceUnreachable:
    try:
        problem = ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        return ServiceUnreachable(
            f"the response has status {response.status_code} and is not from an Anole service; check the address and "
            "any proxy in between"
        )
    request_id = response.headers.get("x-request-id", "")
    return ServiceProblem(problem, retry_after_s=_retry_after_s(response), request_id=request_id)


def _retry_after_s(response: httpx.Response) -> int | None:
    """Seconds from Retry-After; None without one. Anole sends no dates, so they count as none."""
    delay = response.headers.get("retry-after", "")
    return int(delay) if _WHOLE_SECONDS.fullmatch(delay) else None


def _is_busy(response: httpx.Response) -> bool:
    return _is_in_flight(response) or (response.status_code in _BUSY and _retry_after_s(response) is not None)


def _is_in_flight(response: httpx.Response) -> bool:
    """Whether the first of two equal requests still runs. Its result is the response to the second one too."""
    return response.status_code == httpx.codes.CONFLICT and getattr(_error(response), "code", "") == _IN_FLIGHT


def _is_too_late(response: httpx.Response) -> bool:
    """Whether the service took longer than its time limit, which may happen again."""
    return (
        response.status_code == httpx.codes.SERVICE_UNAVAILABLE and getattr(_error(response), "code", "") == _TOO_LATE
    )


def _enough_attempts(limit_s: float | None, attempts: RetryCallState) -> bool:
    response = _last_response(attempts)
    if _is_in_flight(response):
        return attempts.idle_for >= _LONGEST_IN_FLIGHT_S
    if _is_too_late(response) and limit_s is not None:
        passed_s = attempts.seconds_since_start or 0.0
        if passed_s + _delay_s(attempts) >= limit_s:
            return True
    return attempts.attempt_number >= _ATTEMPTS


def _last_response(attempts: RetryCallState) -> httpx.Response:
    outcome: Any = attempts.outcome
    response: httpx.Response = outcome.result()
    return response


def _delay_s(attempts: RetryCallState) -> float:
    response = _last_response(attempts)
    asked_s = _retry_after_s(response)
    default_s = _IN_FLIGHT_WAIT_S if _is_in_flight(response) else 0
    return min(default_s if asked_s is None else asked_s, _LONGEST_WAIT_S)
