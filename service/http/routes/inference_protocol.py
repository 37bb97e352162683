"""The Open Inference Protocol V2, which KServe, Triton and Seldon clients speak: a client of Anole is a model.

Errors are the problems of all other routes, with the member `error` that the protocol requires.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from service.bootstrap import Services
from service.domain.version import LIVE, Version
from service.errors import (
    DeadlinePassed,
    ModalityUnsupported,
    NothingLive,
    Overloaded,
    UnknownCheckpoint,
    UnknownVersion,
)
from service.http.dependencies import Context, ContextDep, ServicesDep, VersionPath
from service.http.inference_protocol import HEADER_LENGTH, read_images, read_request, tensors, write_response
from service.http.log_fields import LOG_FIELDS
from service.http.openapi import IMAGES, PARAMETERS, READ, problems
from service.http.problems import (
    FileTooLarge,
    InvalidField,
    MissingField,
    TooManyParts,
    UnknownField,
    UnsupportedMediaType,
)
from service.http.routes.predict import run_prediction
from service.http.schemas import inference_protocol as schemas
from service.http.scopes import ANY_KEY, ClientPath, require_scope
from service.http.uploads import check_size
from service.runtime.decoder import Upload
from service.settings import Settings
from service.usecases.recording import Origin

router = APIRouter(prefix="/v2", tags=["inference protocol"])

_NAME: Final = "anole"
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_INFER: Final[dict[str, Any]] = {
    "response_model": schemas.InferResponse,
    "response_model_exclude_none": True,
    "dependencies": [require_scope("predict")],
    "responses": {
        200: {"content": {"application/octet-stream": _BINARY}},
        **problems(
            *(PARAMETERS, MissingField, UnknownField, InvalidField, TooManyParts, FileTooLarge, UnsupportedMediaType),
            *(Overloaded, DeadlinePassed),
            *IMAGES,
            *READ,
            *(UnknownVersion, UnknownCheckpoint, NothingLive, ModalityUnsupported),
        ),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schemas.InferRequest.model_json_schema()},
                "application/octet-stream": _BINARY,
            },
        },
        "parameters": [
            {
                "in": "header",
                "name": HEADER_LENGTH,
                "required": False,
                "description": "bytes of the JSON, if binary data follows it",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
    },
}
_VERSION_ERRORS: Final = problems(*READ, UnknownVersion, PARAMETERS)
_LIVE_ERRORS: Final = problems(*READ, NothingLive)


@router.get("", summary="Server metadata")
async def server_metadata() -> schemas.ServerMetadata:
    """Get the name and version of the server, and the extensions of the protocol that it has."""
    return schemas.ServerMetadata(name=_NAME, version=metadata.version("anole"), extensions=["binary_tensor_data"])


@router.get("/health/live", summary="Server is live")
async def server_live() -> schemas.Live:
    """Respond if the event loop runs, as `/livez` does."""
    return schemas.Live()


@router.get(
    "/health/ready",
    summary="Server is ready",
    responses={503: {"model": schemas.Ready, "description": "A check failed, or the process is stopping"}},
)
def server_ready(services: ServicesDep, response: Response) -> schemas.Ready:
    """Make the checks of `/readyz`, which names those that fail."""
    ready = services.readiness.report().ready
    response.status_code = 200 if ready else 503
    return schemas.Ready(ready=ready)


@router.get("/models/{client}", summary="Model metadata", dependencies=[ANY_KEY], responses=_LIVE_ERRORS)
def model_metadata(client: ClientPath, services: ServicesDep) -> schemas.ModelMetadata:
    """Describe the live version of a client.

    `scores` has one column per class, in the order of the output `classes`. The input takes RGB pixels too, with the
    datatype UINT8 and the shape [n, height, width, 3].
    """
    return describe(services, client)


@router.get(
    "/models/{client}/versions/{version}",
    summary="Metadata of a model version",
    dependencies=[ANY_KEY],
    responses=_VERSION_ERRORS,
)
def model_version_metadata(client: ClientPath, version: VersionPath, services: ServicesDep) -> schemas.ModelMetadata:
    """Describe a version of a client."""
    return describe(services, client, version)


@router.get("/models/{client}/ready", summary="Model is ready", dependencies=[ANY_KEY], responses=_LIVE_ERRORS)
def model_ready(client: ClientPath, services: ServicesDep) -> schemas.ModelReady:
    """Respond if the client has a live version."""
    require_version(services, client)
    return schemas.ModelReady(name=client)


@router.get(
    "/models/{client}/versions/{version}/ready",
    summary="Model version is ready",
    dependencies=[ANY_KEY],
    responses=_VERSION_ERRORS,
)
def model_version_ready(client: ClientPath, version: VersionPath, services: ServicesDep) -> schemas.ModelReady:
    """Respond if the client has the version."""
    require_version(services, client, version)
    return schemas.ModelReady(name=client)


@router.post("/models/{client}/infer", summary="Infer", **_INFER)
async def infer(client: ClientPath, request: Request, context: ContextDep) -> Response:
    """Classify images with the live version of a client.

    The one input, `image`, has image files (BYTES: in Base64, or as binary data) or RGB pixels (UINT8).
    """
    return await _infer(request, context, client, LIVE)


@router.post("/models/{client}/versions/{version}/infer", summary="Infer with a version", **_INFER)
async def infer_with_version(
    client: ClientPath, version: VersionPath, request: Request, context: ContextDep
) -> Response:
    """Classify images with a version of a client."""
    return await _infer(request, context, client, str(version))


async def _infer(request: Request, context: Context, client: str, reference: str) -> Response:
    body = await request.body()
    infer_request, images = await to_thread.run_sync(_read, body, request.headers, context.settings)
    outcome = await run_prediction(request, context, client, images, reference)
    context.services.recorder.record(outcome, Origin(request_id=request.scope[LOG_FIELDS]["request_id"]))
    content, headers = write_response(outcome, infer_request)
    return Response(content, headers=headers)


def _read(body: bytes, headers: Mapping[str, str], settings: Settings) -> tuple[schemas.InferRequest, list[Upload]]:
    """Read a request. A large one takes long, so this runs in a thread."""
    infer_request, binary = read_request(body, headers)
    images = read_images(infer_request, binary, settings.max_files)
    for image in images:
        check_size(image, settings)
    return infer_request, images


def require_version(services: Services, client: str, version: int | None = None) -> Version:
    """Return a version of a client; the live one if none is given.

    Raises:
        UnknownClient, UnknownVersion, NothingLive.
    """
    chosen = services.clients.live(client) if version is None else version
    if chosen is None:
        raise NothingLive(
            f"client {client!r} has no live version; publish one with PUT /clients/{client}/aliases/live, or name a "
            f"version: /v2/models/{client}/versions/1"
        )
    return services.clients.version(client, chosen)


def describe(services: Services, client: str, version: int | None = None) -> schemas.ModelMetadata:
    """Describe a version of a client; the live one if none is given. Raises as `require_version`."""
    found = require_version(services, client, version)
    inputs, outputs = tensors(len(found.draft.classes))
    return schemas.ModelMetadata(
        name=client, versions=[str(found.number)], platform=_NAME, inputs=inputs, outputs=outputs
    )
