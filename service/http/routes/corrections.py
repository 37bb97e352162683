"""POST /clients/{client}/corrections: adapts again on stored samples with other labels, or without some of them."""

from __future__ import annotations

import hashlib
import json

from fastapi import APIRouter, Depends, Request, Response

from service.errors import NothingToCorrect, UnknownSample
from service.http.dependencies import ContextDep, QueryNames
from service.http.json_bodies import UniqueKeysRoute
from service.http.openapi import ADAPT_ONCE, QUERY, problems
from service.http.problems import BodyTooSlow, UnsupportedMediaType
from service.http.routes.adapt import AdaptHeadersDep, adapt_or_start_job
from service.http.schemas import resources
from service.http.schemas import samples as schemas
from service.http.scopes import ClientPath, require_scope
from service.usecases.adapt_command import AdaptCommand
from service.usecases.corrections import Corrections

router = APIRouter(tags=["samples"], route_class=UniqueKeysRoute)


@router.post(
    "/clients/{client}/corrections",
    status_code=201,
    summary="Correct samples",
    response_model=resources.AdaptResponse,
    dependencies=[require_scope("adapt"), Depends(QueryNames())],
    responses={
        202: {"model": resources.Job, "description": "Accepted as a job; `Location` is its path"},
        **problems(
            *(*ADAPT_ONCE, UnknownSample, NothingToCorrect),
            *(*QUERY, BodyTooSlow, UnsupportedMediaType),
        ),
    },
)
async def correct_samples(
    client: ClientPath,
    corrections: schemas.Corrections,
    request: Request,
    response: Response,
    context: ContextDep,
    headers: AdaptHeadersDep,
) -> resources.AdaptResponse | Response:
    """Make a new version from the samples that `GET /clients/{client}/samples` lists, as corrected.

    The answer, jobs and the gate are those of `POST /adapt`, and the next extension builds on the corrected samples. A
    class that loses its last sample is no longer part of the version, as long as two classes remain.
    """

    def make_command() -> AdaptCommand:
        return AdaptCommand(
            client,
            (),
            (),
            mode="correct",
            publish=corrections.publish,
            idempotency=headers.idempotency(_digest(corrections)),
            client_created_at=context.services.clients.created_at(client),
            corrections=Corrections.of(corrections.relabel, corrections.remove),
        )

    return await adapt_or_start_job(request, response, context, headers, client, make_command)


def _digest(corrections: schemas.Corrections) -> str:
    """Return the SHA-256 of a request. It does not depend on how its JSON is written."""
    content = corrections.model_dump()
    content["remove"] = sorted(set(corrections.remove))
    return hashlib.sha256(json.dumps({"corrections": content}, sort_keys=True).encode()).hexdigest()
