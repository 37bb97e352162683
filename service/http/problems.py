"""Errors in HTTP: those that only HTTP has, the table of status and code for each error, and RFC 9457 responses.

An error that is not in the table is a bug: the response is a 500 without details.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from models import errors as learning
from models.errors import AnoleError
from service import errors as serving
from service.http.log_fields import log_fields

MEDIA_TYPE: Final = "application/problem+json"
CLIENT_CLOSED_REQUEST: Final = 499
"""Status in metrics and logs of a request whose client disconnected before the response."""

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_RESOURCES_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_EXHAUSTED_MESSAGES: Final = ("can't start new thread", "[enforce fail at alloc_cpu", "DefaultCPUAllocator")
"""How RuntimeErrors begin that mean that threads or memory are exhausted."""


_MAX_REASONS: Final = 8
"""How many invalid parameters a problem names. A list in a body may have a million."""

_INFERENCE_PROTOCOL: Final = re.compile("/v2(/|$)")
"""Paths of the Open Inference Protocol, whose errors have the member `error`."""


class RequestRejected(AnoleError, ValueError):
    """A request that is rejected before a use case is called."""


class BodyTooLarge(RequestRejected):
    """The body has more bytes than the route allows."""


class BodyTooSlow(RequestRejected):
    """The body arrives too slowly, or not at all."""


class FileTooLarge(RequestRejected):
    """An uploaded file has more bytes than allowed."""


class AmbiguousHeaders(RequestRejected):
    """Two parsers could read the headers differently."""


class OriginRejected(RequestRejected):
    """A browser sent the request for a page of another site."""


class CsrfRejected(RequestRejected):
    """The session cookie came with a request that the page of this service may not have sent."""


class UnsupportedMediaType(RequestRejected):
    """The route does not accept this media type or content encoding."""


class MalformedForm(RequestRejected):
    """The body is not a well-formed multipart form."""


class TooManyParts(MalformedForm):
    """A form with more files or fields, or with longer fields, than allowed."""


class MissingField(RequestRejected):
    """A required field is missing."""


class UnknownField(RequestRejected):
    """A field that the route does not have."""


class DuplicateField(RequestRejected):
    """A field that may be given once is given more than once."""


class InvalidField(RequestRejected):
    """A field with a value of the wrong type or outside its range."""


class ConflictingFields(RequestRejected):
    """Fields that cannot be combined."""


class InvalidArchive(RequestRejected):
    """An archive that is not a readable zip file with one folder per class."""


class ArchiveTooLarge(RequestRejected):
    """An archive with more entries, or more bytes after decompression, than allowed."""


class InvalidPrecondition(RequestRejected):
    """An If-Match or If-None-Match header that is malformed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """How HTTP reports a class of errors.

    Attributes:
        status: HTTP status.
        code: stable snake_case name that programs compare.
        title: short summary, the same for each occurrence.
    """

    status: int
    code: str
    title: str


PROBLEMS: Final[Mapping[type[Exception], Problem]] = {
    # The request
    MissingField: Problem(422, "field_missing", "Missing field"),
    UnknownField: Problem(422, "field_unknown", "Unknown field"),
    DuplicateField: Problem(422, "field_duplicate", "Field given more than once"),
    InvalidField: Problem(422, "field_invalid", "Invalid value of a field"),
    ConflictingFields: Problem(422, "fields_conflict", "Fields that cannot be combined"),
    InvalidPrecondition: Problem(422, "precondition_invalid", "Malformed precondition"),
    InvalidArchive: Problem(422, "archive_invalid", "Invalid archive"),
    ArchiveTooLarge: Problem(413, "archive_too_large", "Archive too large"),
    BodyTooSlow: Problem(408, "body_too_slow", "Request body too slow"),
    BodyTooLarge: Problem(413, "body_too_large", "Request body too large"),
    FileTooLarge: Problem(413, "file_too_large", "File too large"),
    UnsupportedMediaType: Problem(415, "media_type_unsupported", "Unsupported media type"),
    TooManyParts: Problem(400, "too_many_parts", "Too many files or fields in the form, or too long fields"),
    AmbiguousHeaders: Problem(400, "head_ambiguous", "Ambiguous headers"),
    MalformedForm: Problem(400, "form_malformed", "Malformed form"),
    RequestValidationError: Problem(422, "parameter_invalid", "Invalid parameter or JSON body"),
    serving.InvalidName: Problem(422, "invalid_name", "Invalid name"),
    serving.NoSamples: Problem(422, "no_samples", "No samples"),
    serving.TooManySamples: Problem(413, "too_many_samples", "Too many samples"),
    serving.LabelCountMismatch: Problem(422, "label_count_mismatch", "Different numbers of labels and samples"),
    serving.PartCountMismatch: Problem(422, "part_count_mismatch", "Different numbers of parts and samples"),
    serving.ModalityCountMismatch: Problem(
        422, "modality_count_mismatch", "Different numbers of texts or vectors and images"
    ),
    serving.ModalityUnsupported: Problem(422, "modality_unsupported", "The model takes no such texts or vectors"),
    serving.ConflictingLabels: Problem(422, "conflicting_labels", "One picture with two labels"),
    serving.TooFewClasses: Problem(422, "too_few_classes", "Fewer than two classes"),
    serving.TooManyClasses: Problem(422, "too_many_classes", "Too many classes"),
    serving.NothingToCorrect: Problem(422, "nothing_to_correct", "Nothing to correct"),
    serving.SamplesNotKept: Problem(409, "samples_not_kept", "The samples of the client are not stored"),
    serving.InvalidRequest: Problem(422, "invalid_request", "Invalid request"),
    learning.InvalidTask: Problem(422, "invalid_task", "Invalid samples"),
    learning.InvalidConfig: Problem(422, "invalid_recipe", "Invalid setting of the inner loop"),
    learning.AdaptationDiverged: Problem(422, "adaptation_diverged", "The adaptation diverged"),
    # Images
    learning.ImageEmpty: Problem(422, "image_empty", "Empty image file"),
    learning.ImageCorrupt: Problem(422, "image_corrupt", "Truncated or damaged image"),
    learning.ImageUndecodable: Problem(422, "image_undecodable", "Image cannot be decoded within the limits"),
    learning.ImageFormatUnsupported: Problem(415, "image_format_unsupported", "Unsupported image format"),
    learning.ImageDepthMismatch: Problem(422, "image_depth_mismatch", "Image of another bit depth"),
    learning.ImageTooLarge: Problem(413, "image_too_large", "Image too large"),
    learning.ImageTooSmall: Problem(422, "image_too_small", "Image too small"),
    learning.ImageRejected: Problem(422, "image_rejected", "Image cannot be used"),
    learning.ExplanationUnsupported: Problem(422, "explanation_unsupported", "The model cannot be explained"),
    # Exports
    learning.ExportUnsupported: Problem(422, "export_unsupported", "The version cannot be exported like this"),
    learning.ExportInvalid: Problem(422, "export_invalid", "Not an exported version, or a damaged one"),
    serving.ModelMismatch: Problem(409, "model_mismatch", "The file belongs to another model"),
    learning.ParityTooLow: Problem(422, "parity_too_low", "The exported file differs from the service"),
    # The caller
    serving.KeyMissing: Problem(401, "key_missing", "API key required"),
    serving.KeyRefused: Problem(401, "key_refused", "Invalid API key"),
    serving.ScopeMissing: Problem(403, "scope_missing", "The API key does not have the required scope"),
    OriginRejected: Problem(403, "origin_refused", "Request from another site"),
    CsrfRejected: Problem(403, "csrf_refused", "Request of a session from another page"),
    serving.RateExceeded: Problem(429, "rate_exceeded", "Too many requests"),
    # Resources
    serving.UnknownClient: Problem(404, "unknown_client", "Unknown client"),
    serving.UnknownVersion: Problem(404, "unknown_version", "Unknown version"),
    serving.UnknownSample: Problem(404, "unknown_sample", "Unknown sample"),
    serving.UnknownAlias: Problem(404, "unknown_alias", "Unknown alias"),
    serving.UnknownCheckpoint: Problem(404, "unknown_meta_model", "Unknown model"),
    serving.UnknownJob: Problem(404, "unknown_job", "Unknown job"),
    serving.JobCancelled: Problem(409, "job_cancelled", "The job was cancelled"),
    serving.WorkerLost: Problem(503, "worker_lost", "The worker that ran the job was lost"),
    serving.NothingLive: Problem(409, "nothing_live", "The client has no live version"),
    serving.NothingToRollBackTo: Problem(409, "nothing_to_roll_back_to", "No earlier version"),
    serving.NothingToUpgrade: Problem(409, "nothing_to_upgrade", "Nothing to upgrade"),
    serving.VersionInUse: Problem(409, "version_in_use", "An alias points to the version"),
    serving.ClientExists: Problem(412, "client_exists", "There is a client of this name already"),
    serving.AliasConflict: Problem(412, "alias_conflict", "The alias has changed"),
    serving.IdempotencyInFlight: Problem(409, "idempotency_in_flight", "The same request is still running"),
    serving.ClientDeleted: Problem(409, "client_deleted", "The client was deleted in the meantime"),
    serving.ParentSuperseded: Problem(409, "parent_superseded", "Another version was published in the meantime"),
    serving.IdempotencyMismatch: Problem(422, "idempotency_mismatch", "Idempotency key used for another request"),
    # The service
    serving.Overloaded: Problem(503, "overloaded", "Overloaded"),
    serving.DeadlinePassed: Problem(503, "deadline_passed", "Time limit exceeded"),
    serving.DecoderUnavailable: Problem(503, "decoder_unavailable", "No image decoder available"),
    serving.VersionCorrupt: Problem(503, "version_corrupt", "Stored data is damaged"),
    serving.StoreFull: Problem(507, "store_full", "The store is full"),
    serving.StoreUnavailable: Problem(503, "store_unavailable", "The store is unavailable"),
}

INTERNAL: Final = Problem(500, "internal_error", "Internal error")
HEAD_TOO_LONG: Final = Problem(400, "head_too_long", "Request line and headers too long")
BAD_REQUEST: Final = Problem(400, "bad_request", "Bad request")
_METHODS: Final = ("DELETE", "GET", "PATCH", "POST", "PUT")
_BY_STATUS: Final[Mapping[int, Problem]] = {
    400: BAD_REQUEST,
    404: Problem(404, "not_found", "Not found"),
    405: Problem(405, "method_not_allowed", "Method not allowed"),
    413: PROBLEMS[BodyTooLarge],
    415: PROBLEMS[UnsupportedMediaType],
}


def problem_of(error: Exception) -> Problem | None:
    """Return the problem of the nearest class of `error` in the table, or None."""
    return next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), None)


def of_setting(variable: str) -> str:
    """Return the environment variable that sets a limit as messages show it; empty if there is none."""
    return f" ({variable})" if variable else ""


def problem_response(
    problem: Problem, detail: str, path: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an RFC 9457 response. For the Open Inference Protocol, it has the message in `error` too."""
    content = {
        "type": f"urn:anole:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": detail,
        "instance": path,
    }
    if _INFERENCE_PROTOCOL.match(path):
        content["error"] = detail
    return _ProblemResponse(content, problem.status, dict(headers or {}), MEDIA_TYPE)


class _ProblemResponse(JSONResponse):
    """Also writes the code into the request's log line."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        log_fields(scope, code=json.loads(bytes(self.body))["code"])
        await super().__call__(scope, receive, send)


def error_response(error: Exception, path: str) -> JSONResponse:
    """Return the response for an error; errors that are not in the table get 500 without details."""
    error = _as_exhausted(error) or error
    problem = problem_of(error)
    if problem is None:
        detail = "an internal error occurred; search the service's log for the X-Request-ID of this response"
        return problem_response(INTERNAL, detail, path)
    return problem_response(problem, str(error), path, _headers(error, problem))


def _as_exhausted(error: Exception) -> serving.ServiceError | None:
    """Translate system errors that mean that disk space, memory, files or threads are exhausted."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _DISK_FULL:
        return serving.StoreFull("no disk space is left to receive the request; nothing was stored; free some space")
    exhausted = (
        number in _RESOURCES_EXHAUSTED or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    )
    if exhausted or (isinstance(error, RuntimeError) and str(error).startswith(_EXHAUSTED_MESSAGES)):
        wait_s = serving.RETRY_UNAVAILABLE_S
        return serving.Overloaded(f"memory, files or threads are exhausted; try again in {wait_s} s", wait_s)
    return None


def install(app: FastAPI) -> None:
    """Make `app` respond to all errors with problems."""
    app.add_exception_handler(AnoleError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    if problem_of(error) is None:
        raise error
    return error_response(error, request.url.path)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    body = getattr(request.scope.get("route"), "body_field", None)
    allowed = sorted(getattr(body.field_info.annotation, "model_fields", ())) if body else []
    return problem_response(PROBLEMS[RequestValidationError], _describe(errors, allowed), request.url.path)


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else INTERNAL.status
    if status == 400 and isinstance(error.__cause__, RequestRejected):  # raised by `UniqueKeysRoute`
        return error_response(error.__cause__, request.url.path)
    if status == 400 and isinstance(error.__cause__, ValueError | RecursionError):  # raised by the JSON parser
        detail = "the body cannot be parsed; send a JSON object in UTF-8 without deep nesting or very long numbers"
        return problem_response(PROBLEMS[RequestValidationError], detail, request.url.path)
    if request.method == "OPTIONS" and request.scope["path"] == "*":  # about the service as a whole
        return Response(status_code=204, headers={"Allow": ", ".join(sorted([*_METHODS, "HEAD"]))})
    headers = error.headers if isinstance(error, HTTPException) else None
    if status == 405:
        headers = {"Allow": ", ".join(_allowed_methods(request))}
    phrase = HTTPStatus(status).phrase
    problem = _BY_STATUS.get(status, Problem(status, phrase.lower().replace(" ", "_"), phrase))
    detail = {
        404: f"there is no resource at {request.url.path}; see /docs",
        405: f"{request.method} is not allowed; allowed: {(headers or {}).get('Allow')}",
    }.get(status, f"{phrase.lower()}; see /docs")
    return problem_response(problem, detail, request.url.path, headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes at the path of the request. Starlette names those of the first route only."""
    scope = request.scope
    allowed = [
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return sorted([*allowed, "HEAD"]) if "GET" in allowed else allowed


def _describe(errors: Sequence[Mapping[str, Any]], allowed: Sequence[str]) -> str:
    """Name each invalid parameter and the reason. The value is left out because it may be long.

    Args:
        errors: as pydantic lists them.
        allowed: the fields that the body may have.
    """
    unknown = [repr(str(item["loc"][-1])[:80]) for item in errors if item["type"] == "extra_forbidden"]
    reasons = [f"the body has {', '.join(unknown[:8])}; allowed: {', '.join(allowed)}"] if unknown else []
    invalid = [item for item in errors if item["type"] != "extra_forbidden"]
    reasons += [f"{' '.join(str(step) for step in item['loc'])}: {item['msg']}" for item in invalid[:_MAX_REASONS]]
    reasons += [f"and {len(invalid) - _MAX_REASONS} more"] if len(invalid) > _MAX_REASONS else []
    return "; ".join(reasons)


def _headers(error: Exception, problem: Problem) -> dict[str, str]:
    if isinstance(error, serving.Overloaded):
        return {"Retry-After": str(error.retry_after_s)}
    if problem.status == 401:
        return {"WWW-Authenticate": 'Bearer realm="anole"'}
    if problem.code in {"head_ambiguous", "body_too_slow"}:
        return {"Connection": "close"}
    if problem.code == "store_unavailable":
        return {"Retry-After": str(serving.RETRY_UNAVAILABLE_S)}
    return {}
