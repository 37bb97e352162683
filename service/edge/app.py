"""The agent's HTTP: POST /predict as the service has it, and /livez, /readyz and /metrics."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models import errors as learning
from models.errors import ImageDepthMismatch, ImageRejected
from models.images.decoding import DecodedPixels, DecodeLimits, decode_pixels
from service.domain.prediction import ImagePrediction
from service.edge.agent import Agent, Counts
from service.edge.errors import EdgeError, NothingInstalled
from service.edge.predictor import LoadedRelease
from service.http.schemas import resources as schemas

MAX_BODY_BYTES: Final = 32 * 2**20
MAX_IMAGES: Final = 64
MIN_IMAGE_SIDE: Final = 16
"""Pixels, as the service requires."""

_LIMITS: Final = DecodeLimits(min_side=MIN_IMAGE_SIDE)
_PROBLEM: Final = "application/problem+json"
_OPTIONAL: Final = {"explanation", "modalities", "uncertainty"}

PROBLEMS: Final[Mapping[type[Exception], tuple[int, str]]] = {
    learning.ImageEmpty: (422, "image_empty"),
    learning.ImageCorrupt: (422, "image_corrupt"),
    learning.ImageUndecodable: (422, "image_undecodable"),
    learning.ImageFormatUnsupported: (415, "image_format_unsupported"),
    learning.ImageDepthMismatch: (422, "image_depth_mismatch"),
    learning.ImageTooLarge: (413, "image_too_large"),
    learning.ImageTooSmall: (422, "image_too_small"),
    NothingInstalled: (404, "unknown_client"),
}
"""Status and code of each error; for images as in the service, which a test compares."""

File = tuple[str, bytes]


class BadRequest(EdgeError):
    """A request that the agent cannot answer: the code of the problem, its status and its text."""

    def __init__(self, code: str, status: int, detail: str) -> None:
        self.code, self.status = code, status
        super().__init__(detail)


class Metrics:
    """Metrics of the agent. No label has the name of a client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.images = Counter("anole_edge_images", "Images predicted", ["verdict"], registry=self.registry)
        self.failed = Counter("anole_edge_failed_predictions", "Predictions that failed", registry=self.registry)
        self.seconds = Histogram("anole_edge_predict_seconds", "Time of a request to predict", registry=self.registry)
        self.polls = Gauge("anole_edge_polls", "Polls since the start", registry=self.registry)
        self.rollbacks = Gauge("anole_edge_rollbacks", "Releases refused or taken back", registry=self.registry)
        self.releases = Gauge("anole_edge_releases", "Clients with a release", registry=self.registry)
        self.requests = Gauge("anole_edge_repository_requests", "Requests since the start", registry=self.registry)
        self.received = Gauge("anole_edge_repository_bytes", "Bytes received since the start", registry=self.registry)
        self.healthy = Gauge("anole_edge_poll_healthy", "Whether the latest poll succeeded", registry=self.registry)

    def exposition(self, agent: Agent) -> bytes:
        """The metrics in the text format of Prometheus."""
        self.polls.set(agent.polls)
        self.rollbacks.set(agent.rollbacks)
        self.releases.set(len(agent.summary()))
        requests, received = agent.transferred
        self.requests.set(requests)
        self.received.set(received)
        self.healthy.set(agent.problem is None)
        return generate_latest(self.registry)


def create_app(agent: Agent) -> Starlette:
    """The application of an agent."""
    metrics = Metrics()

    async def predict(request: Request) -> Response:
        client, reference, files = await _read(request)
        answer = await run_in_threadpool(_predict, agent, metrics, (client, reference), files)
        return Response(answer, media_type="application/json")

    async def livez(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        releases = {
            client: {"version": loaded.info.version, "weights_digest": loaded.info.weights_digest}
            for client, (loaded, _) in agent.summary().items()
        }
        checks = {"releases": "ok" if releases else "none is installed", "repository": agent.problem or "ok"}
        ready = bool(releases)
        body = {"status": "ready" if ready else "not ready", "checks": checks, "releases": releases}
        return JSONResponse(body, 200 if ready else 503)

    async def exposed(_request: Request) -> Response:
        return Response(metrics.exposition(agent), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/predict", _described(predict), methods=["POST"]),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", exposed),
        ],
        exception_handlers={HTTPException: _http_problem, Exception: _internal_error},
    )


def _predict(agent: Agent, metrics: Metrics, target: tuple[str, str | None], files: list[File]) -> bytes:
    """Decode and predict. Images that are rejected are the sender's failure; any other one is the release's."""
    client, reference = target
    started_s = time.perf_counter()
    release = agent.release(client)
    _require_current(release, reference)
    decoded = [(name, _decode(name, content)) for name, content in files]
    try:
        predictions = release.predict(decoded)
    except ImageDepthMismatch:
        raise
    except Exception:
        metrics.failed.inc()
        agent.record(release, Counts(failed=1))
        raise
    seconds = time.perf_counter() - started_s
    metrics.seconds.observe(seconds)
    for prediction in predictions:
        metrics.images.labels(prediction.verdict).inc()
    unknown = sum(prediction.verdict == "unknown" for prediction in predictions)
    agent.record(release, Counts(len(predictions), unknown, 0, seconds))
    return _answer(release, predictions, seconds)


def _answer(release: LoadedRelease, predictions: list[ImagePrediction], seconds: float) -> bytes:
    info = release.info
    answer = schemas.PredictResponse(
        client=info.client,
        version=info.version,
        weights_digest=info.weights_digest,
        predictions=[schemas.ImagePrediction.model_validate(prediction) for prediction in predictions],
        seconds=seconds,
    )
    return answer.model_dump_json(exclude={"predictions": {"__all__": _OPTIONAL}}).encode()


def _decode(name: str, content: bytes) -> DecodedPixels:
    try:
        return decode_pixels(content, _LIMITS)
    except ImageRejected as error:
        raise type(error)(f"{name}: {error}") from error


def _require_current(release: LoadedRelease, reference: str | None) -> None:
    """Raises BadRequest if the request names another version than the one of the device."""
    if reference not in (None, "live", str(release.info.version)):
        raise BadRequest(
            "unknown_version",
            404,
            f"the device has version {release.info.version} of client {release.info.client!r}, not {reference!r}; "
            "leave out version and alias",
        )


async def _read(request: Request) -> tuple[str, str | None, list[File]]:
    """Read a form with client and images, or one image with ?client=, as the service's /predict does."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or "transfer-encoding" in request.headers:  # a chunked body may have any length
        raise BadRequest("length_required", 411, "the body has no Content-Length, or is chunked; send its length")
    if int(length) > MAX_BODY_BYTES:
        raise BadRequest("body_too_large", 413, f"the body has {length} bytes; at most {MAX_BODY_BYTES} are allowed")
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith("image/"):
        fields, files = dict(request.query_params), [("image", await request.body())]
    elif kind.startswith("multipart/form-data"):
        fields, files = await _read_form(request)
    else:
        raise BadRequest(
            "media_type_unsupported", 415, f"Content-Type is {kind!r}; allowed: multipart/form-data, or image/*"
        )
    client = fields.get("client")
    if not client:
        raise BadRequest("field_missing", 422, "field 'client' is missing; send the name of the client")
    if not files:
        raise BadRequest("field_missing", 422, "field 'images' is missing; send one or more image files")
    unsupported = sorted(set(fields) - {"client", "version", "alias"})
    if unsupported:
        raise BadRequest(
            "field_unknown",
            422,
            f"the agent does not support {', '.join(unsupported)}; allowed: client, images, version",
        )
    return client, fields.get("version") or fields.get("alias"), files


async def _read_form(request: Request) -> tuple[dict[str, str], list[File]]:
    fields: dict[str, str] = {}
    files: list[File] = []
    async with request.form(max_files=MAX_IMAGES, max_fields=8) as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
            elif name == "images":
                files.append((value.filename or "", await value.read()))
            else:
                raise BadRequest("field_unknown", 422, f"file field {name!r} is not known; allowed: images")
    return fields, files


Endpoint = Callable[[Request], Awaitable[Response]]


def _described(endpoint: Endpoint) -> Endpoint:
    """Turn the errors of an endpoint into problems, as the service describes them (RFC 9457)."""

    async def called(request: Request) -> Response:
        try:
            return await endpoint(request)
        except BadRequest as error:
            return _problem(error.code, error.status, str(error), request)
        except tuple(PROBLEMS) as error:
            status, code = PROBLEMS[type(error)]
            return _problem(code, status, str(error), request)
        except HTTPException as error:  # as which starlette raises the errors of its parser of forms
            return _problem("form_malformed", error.status_code, f"the form cannot be read: {error.detail}", request)

    return called


async def _internal_error(request: Request, _error: Exception) -> Response:
    """Respond without details; the log has them."""
    return _problem("internal_error", 500, "the prediction failed; see the log of the agent", request)


def _http_problem(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
    return _problem(code, status, f"{request.method} {request.url.path}: {error}", request)


def _problem(code: str, status: int, detail: str, request: Request) -> Response:
    body = {
        "type": f"urn:anole:problem:{code}", "title": code.replace("_", " ").capitalize(), "status": status,
        "detail": detail, "instance": request.url.path, "code": code,
    }  # fmt: skip
    return JSONResponse(body, status, media_type=_PROBLEM)
