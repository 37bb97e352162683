"""What route handlers share: the values that FastAPI passes to them, and waiting for work in other threads."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar, cast

from fastapi import Depends, Header, Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.bootstrap import Services
from service.domain.client import validate_alias_name
from service.errors import RETRY_BUSY_S, DeadlinePassed
from service.http.problems import InvalidField, InvalidPrecondition, of_setting
from service.http.uploads import check_query
from service.settings import Settings
from service.telemetry import Telemetry
from service.usecases.clients import MAX_PAGE

T = TypeVar("T")

MAX_VERSION: Final = 2**31 - 1

MAX_ROW: Final = 2**31 - 1
"""Highest id of an entry of a log."""

MOMENT: Final = "2026-01-31T14:31:00Z"

_WATCH_AFTER_S: Final = 0.05
"""Requests that end sooner are not watched for a disconnect, which would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the application provides while it runs."""

    services: Services
    settings: Settings
    telemetry: Telemetry


async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


async def _services(request: Request) -> Services:
    return cast(Context, request.app.state.context).services


async def _alias(
    alias: Annotated[str, Path(description="name of an alias", openapi_examples={"live": {"value": "live"}})],
) -> str:
    return validate_alias_name(alias)


async def _only_if_absent(
    if_none_match: Annotated[str | None, Header(description="`*`: only if it does not exist yet")] = None,
) -> bool:
    """Return whether a request is to create what it names. Raises InvalidPrecondition for any value but `*`."""
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidPrecondition(f"If-None-Match is {if_none_match[:80]!r}; allowed: *")
    return if_none_match is not None


ContextDep = Annotated[Context, Depends(_context)]
ServicesDep = Annotated[Services, Depends(_services)]
AliasPath = Annotated[str, Depends(_alias)]
OnlyIfAbsent = Annotated[bool, Depends(_only_if_absent)]
VersionPath = Annotated[int, Path(ge=1, le=MAX_VERSION, description="number of a version")]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: the number of entries at most, and the header `Link` (RFC 8288) that leads to the next one."""

    limit: int
    request: Request
    response: Response

    def link_next(self, after: str | int) -> None:
        """Link to the entries that follow `after`."""
        following = self.request.url.include_query_params(limit=self.limit, after=after)
        self.response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'


class QueryNames:
    """A dependency that rejects parameters of the query that a route does not have, or has twice.

    Args:
        names: those that it has.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    async def __call__(self, request: Request) -> None:
        """Check the query. Raises UnknownField, DuplicateField."""
        check_query(request, self._names)


class Paging:
    """The dependency that returns the `Page` of a list. It rejects parameters that the list does not have, because a
    mistyped `after` would repeat a page for ever.

    Args:
        parameters: the parameters of the list besides `limit` and `after`.
    """

    def __init__(self, *parameters: str) -> None:
        self._allowed = {"limit", "after", *parameters}

    async def __call__(
        self,
        request: Request,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="number of entries at most")] = MAX_PAGE,
    ) -> Page:
        """Return the page. Raises UnknownField, DuplicateField."""
        check_query(request, self._allowed)
        return Page(limit, request, response)


PageDep = Annotated[Page, Depends(Paging())]


def parse_moment(name: str, text: str) -> datetime:
    """Parse a moment. Lower case is allowed, and a space for a plus sign that was not percent-encoded.

    Raises:
        InvalidField: not ISO 8601, or without an offset.
    """
    allowed = "allowed: ISO 8601 with an offset from UTC, such as 2026-01-31T14:31:00Z or 2026-01-31T15:31:00+01:00"
    try:
        moment = datetime.fromisoformat(re.sub(r" (?=\d{2}:?\d{2}$)", "+", text.upper()))
    except ValueError as error:
        raise InvalidField(f"field {name!r} is {text[:80]!r}; {allowed}") from error
    if moment.tzinfo is None:
        raise InvalidField(f"field {name!r} is {text!r}, which has no offset; {allowed}")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise InvalidField(f"field {name!r} is {text!r}, not within the years 1 to 9999 in UTC; {allowed}") from error


@dataclass(frozen=True, slots=True)
class Period:
    """The moments that a log is read from and to, in UTC; None is the whole log on that side."""

    since: datetime | None
    until: datetime | None


async def _period(
    since: Annotated[
        str | None,
        Query(alias="from", description="not before this moment, in ISO 8601 with an offset", examples=[MOMENT]),
    ] = None,
    until: Annotated[
        str | None, Query(alias="to", description="before this moment, in ISO 8601 with an offset", examples=[MOMENT])
    ] = None,
) -> Period:
    return Period(
        None if since is None else parse_moment("from", since), None if until is None else parse_moment("to", until)
    )


PeriodDep = Annotated[Period, Depends(_period)]


async def wait_for(
    request: Request,
    work: Future[T],
    limit_s: float,
    watch_after_s: float = _WATCH_AFTER_S,
    setting: str = "",
    advice: str = "with fewer or smaller images",
) -> T:
    """Return the result of `work`, or raise its error. Work that is no longer awaited is cancelled if it has not begun.

    Args:
        request: its body has been read.
        work: runs in another thread.
        limit_s: time limit in seconds.
        watch_after_s: when to begin to watch for a disconnect.
        setting: environment variable that sets the time limit, for the message.
        advice: what may make the work shorter, for the message.

    Raises:
        ClientDisconnect: the client has disconnected.
        DeadlinePassed: the time limit was exceeded.
    """
    result = asyncio.wrap_future(work)
    disconnect: asyncio.Task[None] | None = None
    try:
        await asyncio.wait({result}, timeout=min(watch_after_s, limit_s))
        if not result.done():
            disconnect = asyncio.create_task(_disconnected(request))
            either: set[asyncio.Future[Any]] = {result, disconnect}
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        if disconnect is not None and disconnect.done():
            raise ClientDisconnect
        raise DeadlinePassed(
            f"there was no result within {limit_s:g} s{of_setting(setting)}; try again in {RETRY_BUSY_S} s, {advice}",
            RETRY_BUSY_S,
        )
    finally:
        result.cancel()
        if disconnect is not None:
            disconnect.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
