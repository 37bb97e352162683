"""What handlers are given: the use cases, settings, rooms to work in, checked names. Short names for `Annotated`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeVar, cast

from fastapi import Depends, Path, Request

from service.domain.names import validate_alias_name, validate_client_name
from service.errors import Overloaded
from service.http.bound import bound
from service.http.mailbox import Mailbox
from service.http.middleware.auth import CALLER
from service.http.ports import Services
from service.http.problems import MEDIA_TYPE, PROBLEMS
from service.http.schemas.base import ProblemDetails
from service.settings import Settings
from service.telemetry import Telemetry
from service.usecases.jobs import Jobs

T = TypeVar("T")

HIGHEST_VERSION: Final = 2**31 - 1
_RETRY_S: Final = 2


class AdmissionLimit:
    """Places for one kind of work: so many are run, so many wait in line, and one more is refused at once.

    Args:
        work: what it is called, in figures and refusals.
        running: places of what runs.
        waiting: places in line.
        telemetry: counts what is refused.
    """

    def __init__(self, work: str, running: int, waiting: int, telemetry: Telemetry) -> None:
        self._work = work
        self._places = running + waiting
        self._taken = 0
        self._lock = threading.Lock()
        self._telemetry = telemetry

    @property
    def taken(self) -> int:
        """Places of what runs or waits."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return self._taken >= self._places

    def refuse_when_full(self) -> None:
        """Call it before reading a body, so that a body that nobody will work on is not read.

        Raises:
            Overloaded: every place is taken.
        """
        if self.full:
            raise self._full()

    def submitted(self, submit: Callable[[], Future[T]], places: int = 1) -> Future[T]:
        """Submit work that runs in threads of its own; it holds its places until it has ended or was cancelled.

        Work that needs more places than there are is taken when nothing else is there.

        Raises:
            Overloaded: too few places are free.
        """
        self._take(places)
        try:
            work = submit()
        except BaseException:
            self._give_back(places)
            raise
        work.add_done_callback(lambda _: self._give_back(places))
        return work

    def _take(self, places: int) -> None:
        with self._lock:  # work ends in other threads
            if self._taken and self._taken + places > self._places:
                raise self._full()
            self._taken += places

    def _give_back(self, places: int) -> None:
        with self._lock:
            self._taken -= places

    def _full(self) -> Overloaded:
        self._telemetry.refused.labels(self._work).inc()
        return Overloaded(
            f"{self._taken} of {self._places} places to {self._work} are taken, and too few are free; "
            f"try again in {_RETRY_S} s",
            retry_after_s=_RETRY_S,
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What the application holds for its handlers while it runs."""

    services: Services
    settings: Settings
    telemetry: Telemetry
    adapt_limit: AdmissionLimit
    predict_limit: AdmissionLimit
    mailbox: Mailbox
    jobs: Jobs


def context_of(request: Request) -> Context:
    """The application's, its use cases as the caller behind the door may see them."""
    context = cast(Context, request.app.state.context)
    caller = request.scope[CALLER]
    return context if caller.clients is None else replace(context, services=bound(context.services, caller))


async def _context(request: Request) -> Context:
    return context_of(request)


async def _services(request: Request) -> Services:
    return context_of(request).services


async def _client(
    client: Annotated[str, Path(description="a client's name", openapi_examples={"demo": {"value": "demo"}})],
) -> str:
    return validate_client_name(client)


async def _alias(
    alias: Annotated[str, Path(description="an alias", openapi_examples={"live": {"value": "live"}})],
) -> str:
    return validate_alias_name(alias)


ContextDep = Annotated[Context, Depends(_context)]
ServicesDep = Annotated[Services, Depends(_services)]
ClientPath = Annotated[str, Depends(_client)]
AliasPath = Annotated[str, Depends(_alias)]
VersionPath = Annotated[int, Path(ge=1, le=HIGHEST_VERSION, description="a version's number")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document which problems a route answers with, by status, listing the codes of each."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        codes = sorted(problem.code for problem in PROBLEMS.values() if problem.status == status)
        documented[status] = {
            "model": ProblemDetails,
            "description": f"A problem; codes with this status: {', '.join(codes)}",
            "content": {MEDIA_TYPE: {}},
        }
    return documented
