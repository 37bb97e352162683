"""Values that FastAPI passes to route handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, cast

from fastapi import Depends, Path, Request

from service.bootstrap import Services
from service.domain.names import validate_alias_name
from service.settings import Settings
from service.telemetry import Telemetry
from service.usecases.jobs import Jobs

MAX_VERSION: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Context:
    """What the application provides while it runs."""

    services: Services
    settings: Settings
    telemetry: Telemetry
    jobs: Jobs


async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


async def _services(request: Request) -> Services:
    return cast(Context, request.app.state.context).services


async def _alias(
    alias: Annotated[str, Path(description="name of an alias", openapi_examples={"live": {"value": "live"}})],
) -> str:
    return validate_alias_name(alias)


ContextDep = Annotated[Context, Depends(_context)]
ServicesDep = Annotated[Services, Depends(_services)]
AliasPath = Annotated[str, Depends(_alias)]
VersionPath = Annotated[int, Path(ge=1, le=MAX_VERSION, description="number of a version")]
