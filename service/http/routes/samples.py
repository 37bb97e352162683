"""The stored samples of a client: list them, and get one as a picture."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from service.domain.version import validate_label
from service.errors import SamplesNotKept, UnknownSample, UnknownVersion
from service.http.dependencies import MAX_VERSION, Page, Paging, QueryNames, ServicesDep
from service.http.openapi import QUERY, READ, problems
from service.http.schemas import samples as schemas
from service.http.schemas.base import DIGEST
from service.http.scopes import ANY_KEY, ClientPath, require_scope
from service.usecases.stored_samples import StoredSample

router = APIRouter(prefix="/clients/{client}/samples", tags=["samples"])

MIN_SIDE: Final = 16
MAX_SIDE: Final = 512

_PNG: Final = "image/png"
_ASK_EACH_TIME: Final = "private, no-cache"
"""A picture never changes, but who may see it does: after a logout or a deletion, no browser may show its copy."""


@router.get(
    "",
    summary="List samples",
    dependencies=[ANY_KEY],
    responses=problems(*READ, UnknownVersion, SamplesNotKept, *QUERY),
)
def list_samples(
    client: ClientPath,
    services: ServicesDep,
    page: Annotated[Page, Depends(Paging("label", "version"))],
    after: Annotated[str, Query(max_length=64, description="only samples whose digests follow this one")] = "",
    label: Annotated[str | None, Query(description="only samples with this label", examples=["scratch"])] = None,
    version: Annotated[
        int | None,
        Query(ge=1, le=MAX_VERSION, description="the version that judges; default: the live one, or else the newest"),
    ] = None,
) -> schemas.SampleList:
    """List the samples that the next extension builds on, and how cross-validation judged each of them.

    `held_out` is the prediction for a sample by a fold that had not seen it. Old versions did not record it.

    The header `Link` leads to the next page.
    """
    wanted = validate_label(label) if label else None
    found = services.samples.page(client, label=wanted, version=version, after=after, limit=page.limit + 1)
    if len(found.samples) > page.limit:
        page.link_next(found.samples[page.limit - 1].sample.digest)
    samples = [_sample(each) for each in found.samples[: page.limit]]
    return schemas.SampleList(client=client, version=found.judged_by, samples=samples)


@router.get(
    "/{digest}",
    summary="Get a sample's picture",
    dependencies=[require_scope("adapt"), Depends(QueryNames("side"))],
    response_class=Response,
    responses={
        200: {"content": {_PNG: {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The picture has the ETag that `If-None-Match` names"},
        **problems(*READ, UnknownSample, SamplesNotKept, *QUERY),
    },
)
def get_sample_picture(
    client: ClientPath,
    digest: Annotated[str, Path(description="digest of a sample", examples=DIGEST["examples"])],
    services: ServicesDep,
    request: Request,
    side: Annotated[
        int | None,
        Query(ge=MIN_SIDE, le=MAX_SIDE, description="shrink the picture to this longer side, in pixels"),
    ] = None,
) -> Response:
    """Get a stored sample of any version of the client as a PNG, with `side` as a thumbnail."""
    etag = f'"{digest}"' if side is None else f'"{digest}-{side}"'
    headers = {"ETag": etag, "Cache-Control": _ASK_EACH_TIME}
    held = request.headers.get("if-none-match", "")
    if etag in held or held.strip() == "*":
        services.samples.check(client, digest)
        return Response(status_code=304, headers=headers)
    return Response(services.samples.picture(client, digest, side), media_type=_PNG, headers=headers)


def _sample(stored: StoredSample) -> schemas.StoredSample:
    sample, held_out = stored.sample, stored.held_out
    return schemas.StoredSample(
        digest=sample.digest,
        label=sample.label,
        name=sample.name,
        part=sample.part,
        first_version=stored.first_version,
        held_out=None
        if held_out is None
        else schemas.HeldOutSample(
            predicted=held_out.label, confidence=held_out.confidence, correct=held_out.label == sample.label
        ),
        suspect=stored.suspect,
    )
