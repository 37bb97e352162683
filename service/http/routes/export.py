"""Versions as files: export one, and import such a file as a new version."""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from models.errors import ExportInvalid, ExportUnsupported, ParityTooLow
from models.inference.exports.formats import Format
from service.errors import (
    ClientDeleted,
    DeadlinePassed,
    ModelMismatch,
    Overloaded,
    TooManyClasses,
    UnknownCheckpoint,
    UnknownVersion,
)
from service.http.dependencies import ContextDep, QueryNames, VersionPath, wait_for
from service.http.openapi import QUERY, READ, WRITE, problems
from service.http.problems import BodyTooLarge, BodyTooSlow, UnsupportedMediaType
from service.http.routes.adapt import adapt_response
from service.http.schemas.exports import ENDINGS
from service.http.schemas.resources import AdaptResponse
from service.http.scopes import ClientPath, require_scope
from service.runtime.adapt_queue import JobControl
from service.usecases.adapt_command import AdaptOutcome
from service.usecases.export import ExportCommand, Precision
from service.usecases.import_version import ImportCommand

router = APIRouter(tags=["versions"])

_ONNX: Final = "application/octet-stream"
_EXPORT_TIMES: Final = 4
"""How many times longer than an adaptation an export may take: it compiles and compares a whole net."""
_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}


@dataclass(frozen=True, slots=True)
class _Options:
    format: Format
    precision: Precision
    batch: bool


async def _options(
    format: Annotated[  # noqa: A002 - name in the query
        Format,
        Query(description="an ONNX file, a zip for OpenVINO, or a .pt2 program of torch.export"),
    ] = "onnx",
    precision: Annotated[
        Precision, Query(description="numbers that the net computes in; int8 is faster on processors and less accurate")
    ] = "float32",
    batch: Annotated[bool, Query(description="take several images of one size at once")] = False,
) -> _Options:
    return _Options(format, precision, batch)


_OptionsDep = Annotated[_Options, Depends(_options)]


@router.get(
    "/clients/{client}/versions/{version}/export",
    summary="Export a version",
    dependencies=[require_scope("admin"), Depends(QueryNames("format", "precision", "batch"))],
    response_class=Response,
    responses={
        200: {"content": {_ONNX: _BINARY}},
        **problems(
            *READ,
            *QUERY,
            UnknownVersion,
            UnknownCheckpoint,
            ExportUnsupported,
            ParityTooLow,
            Overloaded,
            DeadlinePassed,
        ),
    },
)
async def export_version(
    client: ClientPath, version: VersionPath, request: Request, context: ContextDep, options: _OptionsDep
) -> Response:
    """Download a version as one file that takes an RGB image of any size and gives what `POST /predict` gives.

    The input `image` is uint8 (height, width, 3). The outputs are `scores`, float32 in the order of the classes;
    `label`, int64; `unknown_score`, float32; and `known`, bool. Before the file is sent, it is compared with the
    service on samples of the version and on generated images. Its metadata contain the result, class names and digests.
    """
    command = ExportCommand(client, version, options.format, options.precision, options.batch)
    limit_s = _EXPORT_TIMES * context.settings.adapt_s
    control = JobControl(limit_s)
    setting = f"{_EXPORT_TIMES} x ANOLE_ADAPT_S"
    try:
        work = await to_thread.run_sync(context.services.exports.submit, command, control)
        exported = await wait_for(request, work, limit_s, setting=setting, advice="when less runs, or raise the limit")
    finally:
        control.stop(ClientDisconnect())
    digest = hashlib.sha256(exported.content)
    headers = {
        "Content-Disposition": f'attachment; filename="{client}-{version}{ENDINGS[options.format]}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode('ascii')}:",
    }
    return Response(exported.content, media_type=_ONNX, headers=headers)


@router.post(
    "/clients/{client}/versions",
    status_code=201,
    summary="Import a version",
    dependencies=[require_scope("admin"), Depends(QueryNames("publish"))],
    responses=problems(
        *WRITE,
        *QUERY,
        ExportUnsupported,
        ExportInvalid,
        ModelMismatch,
        TooManyClasses,
        UnknownCheckpoint,
        ClientDeleted,
        BodyTooSlow,
        BodyTooLarge,
        UnsupportedMediaType,
        Overloaded,
        DeadlinePassed,
    ),
    openapi_extra={"requestBody": {"required": True, "content": {_ONNX: _BINARY}}},
)
async def import_version(
    client: ClientPath,
    request: Request,
    response: Response,
    context: ContextDep,
    publish: Annotated[
        Literal["auto", "always", "never"],
        Query(description="never: the version is held; always: it goes live; auto: the gate decides"),
    ] = "never",
) -> AdaptResponse:
    """Make a new version of a client from an exported file, such as one from another service. Send it as the body.

    The file must come from a version of the client's model. It has no samples, so the accuracy of the version is not
    estimated, the gate holds it unless the client's floor is 0, and it cannot be extended.
    """
    content = await request.body()
    services, control = context.services, JobControl(context.settings.adapt_s)

    def submit() -> Future[AdaptOutcome]:
        created_at = services.clients.created_at(client)
        return services.imports.submit(ImportCommand(client, content, publish, created_at), control)

    try:
        outcome = await wait_for(
            request, await to_thread.run_sync(submit), context.settings.adapt_s, setting="ANOLE_ADAPT_S"
        )
    finally:
        control.stop(ClientDisconnect())
    response.headers["Location"] = f"/clients/{client}/versions/{outcome.version.number}"
    return adapt_response(outcome)
