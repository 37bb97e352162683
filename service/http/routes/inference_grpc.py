"""The calls of the Open Inference Protocol over gRPC, as routes whose bodies are the messages.

`service.http.grpc.server` passes calls on to these routes, so they have the authentication, limits, logs, metrics and
errors of all others. They exist only while gRPC is served.
"""

from __future__ import annotations

from typing import Final

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from google.protobuf.message import Message

from service.domain.version import LIVE
from service.errors import NothingLive, UnknownClient, UnknownVersion
from service.http.dependencies import ContextDep, ServicesDep
from service.http.grpc import messages
from service.http.grpc import open_inference_pb2 as pb
from service.http.inference_protocol import read_images
from service.http.log_fields import LOG_FIELDS
from service.http.middleware.admission import Slot
from service.http.middleware.limits import GRPC_SERVICE, SLOT
from service.http.routes import inference_protocol as json_routes
from service.http.routes.predict import run_prediction
from service.http.schemas.inference_protocol import InferRequest
from service.http.scopes import ANY_KEY, accessible_client, require_scope
from service.http.uploads import check_size
from service.runtime.decoder import Upload
from service.settings import Settings
from service.usecases.recording import Origin

router = APIRouter(prefix=f"/{GRPC_SERVICE}", include_in_schema=False)

_MEDIA_TYPE: Final = "application/x-protobuf"


@router.post("/ServerLive")
async def server_live() -> Response:
    """Respond if the event loop runs, as `/livez` does."""
    return _reply(pb.ServerLiveResponse(live=True))


@router.post("/ServerReady")
def server_ready(services: ServicesDep) -> Response:
    """Make the checks of `/readyz`."""
    return _reply(pb.ServerReadyResponse(ready=services.readiness.report().ready))


@router.post("/ServerMetadata")
async def server_metadata() -> Response:
    """Name the server and its version."""
    described = await json_routes.server_metadata()
    return _reply(pb.ServerMetadataResponse(name=described.name, version=described.version))


@router.post("/ModelReady", dependencies=[ANY_KEY])
async def model_ready(request: Request, services: ServicesDep) -> Response:
    """Respond whether the client exists and has the version, or a live one."""
    message = messages.parse(pb.ModelReadyRequest, await request.body())
    version = messages.parse_version(message.version)
    try:
        client = accessible_client(request, message.name)
        await to_thread.run_sync(json_routes.require_version, services, client, version)
    except (UnknownClient, UnknownVersion, NothingLive):
        return _reply(pb.ModelReadyResponse(ready=False))
    return _reply(pb.ModelReadyResponse(ready=True))


@router.post("/ModelMetadata", dependencies=[ANY_KEY])
async def model_metadata(request: Request, services: ServicesDep) -> Response:
    """Describe the live version of a client, or the given one."""
    message = messages.parse(pb.ModelMetadataRequest, await request.body())
    version = messages.parse_version(message.version)
    client = accessible_client(request, message.name)
    described = await to_thread.run_sync(json_routes.describe, services, client, version)
    return _reply(pb.ModelMetadataResponse(**described.model_dump()))


@router.post("/ModelInfer", dependencies=[require_scope("predict")])
async def model_infer(request: Request, context: ContextDep) -> Response:
    """Classify images with the live version of a client, or with the given one."""
    message = await to_thread.run_sync(_parse, await _body(request))
    version = messages.parse_version(message.model_version)
    client = accessible_client(request, message.model_name)
    infer_request, images = await to_thread.run_sync(_read, message, context.settings)
    outcome = await run_prediction(request, context, client, images, LIVE if version is None else str(version))
    context.services.recorder.record(outcome, Origin(request_id=request.scope[LOG_FIELDS]["request_id"]))
    return _reply(messages.response(outcome, infer_request))


async def _body(request: Request) -> bytes:
    """Return the body. Until it has arrived, its size is unknown, and it counts as the largest that is allowed."""
    body = await request.body()
    slot: Slot = request.scope[SLOT]
    slot.give_back_memory_beyond(len(body))
    return body


def _parse(body: bytes) -> pb.ModelInferRequest:
    messages.check_structure(body)
    return messages.parse(pb.ModelInferRequest, body)


def _read(message: pb.ModelInferRequest, settings: Settings) -> tuple[InferRequest, list[Upload]]:
    infer_request, binary = messages.read_request(message)
    images = read_images(infer_request, binary, settings.max_files)
    for image in images:
        check_size(image, settings)
    return infer_request, images


def _reply(message: Message) -> Response:
    return Response(message.SerializeToString(), media_type=_MEDIA_TYPE)
