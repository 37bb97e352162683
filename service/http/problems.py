"""The one table from error classes to HTTP: status, stable code, title; and the RFC 9457 answers made from it.

It knows no use case. An error that the table does not name is a fault of this service: 500, and nothing of it is told.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from models import errors as learning
from service import errors as serving
from service.http import errors as refusals

MEDIA_TYPE: Final = "application/problem+json"
_DEPARTED: Final = 499
"""The status that figures and log lines show for a request whose sender went away first."""
_STORE_RETRY_S: Final = 5
_USED_UP_RETRY_S: Final = 5
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_THREADS: Final = ("can't start new thread", "[enforce fail at alloc_cpu", "DefaultCPUAllocator")
"""How RuntimeErrors begin that say no more than that something is used up."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a class of error is in HTTP.

    Attributes:
        status: HTTP status.
        code: stable snake_case name; programs compare this and nothing else.
        title: short text, the same for every occurrence.
    """

    status: int
    code: str
    title: str


PROBLEMS: Final[Mapping[type[Exception], Problem]] = {
    # What a request says
    refusals.FieldMissing: Problem(422, "field_missing", "A field is missing"),
    refusals.FieldUnknown: Problem(422, "field_unknown", "A field does not exist"),
    refusals.FieldDuplicate: Problem(422, "field_duplicate", "A field is given twice"),
    refusals.FieldInvalid: Problem(422, "field_invalid", "A field has a value that is not allowed"),
    refusals.FieldsConflict: Problem(422, "fields_conflict", "Fields exclude each other"),
    refusals.PreconditionInvalid: Problem(422, "precondition_invalid", "A precondition cannot be understood"),
    refusals.ArchiveInvalid: Problem(422, "archive_invalid", "The archive cannot be used"),
    refusals.ArchiveTooLarge: Problem(413, "archive_too_large", "The archive is too large"),
    refusals.BodyTooLarge: Problem(413, "body_too_large", "The request's body is too large"),
    refusals.FileTooLarge: Problem(413, "file_too_large", "An uploaded file is too large"),
    refusals.MediaTypeUnsupported: Problem(415, "media_type_unsupported", "The body's media type is not taken here"),
    refusals.TooManyParts: Problem(400, "too_many_parts", "The form has too many or too long parts"),
    refusals.HeadAmbiguous: Problem(400, "head_ambiguous", "The headers can be read in two ways"),
    refusals.FormMalformed: Problem(400, "form_malformed", "The form cannot be read"),
    serving.InvalidName: Problem(422, "invalid_name", "A name is not allowed"),
    serving.NoSamples: Problem(422, "no_samples", "There is no sample"),
    serving.TooManySamples: Problem(413, "too_many_samples", "There are too many samples"),
    serving.LabelCountMismatch: Problem(422, "label_count_mismatch", "Labels and samples differ in number"),
    serving.TooFewClasses: Problem(422, "too_few_classes", "There are fewer than two classes"),
    serving.TooManyClasses: Problem(422, "too_many_classes", "There are too many classes"),
    serving.SamplesNotKept: Problem(409, "samples_not_kept", "The client's samples are not kept"),
    serving.InvalidRequest: Problem(422, "invalid_request", "The parts of the request do not fit together"),
    learning.InvalidTask: Problem(422, "invalid_task", "The samples do not make a task"),
    learning.InvalidConfig: Problem(422, "invalid_recipe", "A setting of the inner loop is not allowed"),
    learning.AdaptationDiverged: Problem(422, "adaptation_diverged", "The adaptation diverged"),
    # What an image is
    learning.ImageEmpty: Problem(422, "image_empty", "An image file is empty"),
    learning.ImageCorrupt: Problem(422, "image_corrupt", "An image is truncated or damaged"),
    learning.ImageUndecodable: Problem(422, "image_undecodable", "An image cannot be decoded within bounds"),
    learning.ImageFormatUnsupported: Problem(415, "image_format_unsupported", "A file is no image of a known format"),
    learning.ImageTooLarge: Problem(413, "image_too_large", "An image is too large"),
    learning.ImageTooSmall: Problem(422, "image_too_small", "An image is too small"),
    learning.ImageRejected: Problem(422, "image_rejected", "An image cannot be used"),
    # Who calls
    serving.KeyMissing: Problem(401, "key_missing", "A key is needed"),
    serving.KeyRefused: Problem(401, "key_refused", "The key is not valid"),
    serving.ScopeMissing: Problem(403, "scope_missing", "The key is not for this"),
    refusals.OriginRefused: Problem(403, "origin_refused", "Another site's page may not call"),
    serving.RateExceeded: Problem(429, "rate_exceeded", "One caller takes more than its share"),
    # What is there and what is not
    serving.UnknownClient: Problem(404, "unknown_client", "There is no such client"),
    serving.UnknownVersion: Problem(404, "unknown_version", "There is no such version"),
    serving.UnknownAlias: Problem(404, "unknown_alias", "There is no such alias"),
    serving.UnknownCheckpoint: Problem(404, "unknown_meta_model", "There is no such meta-model"),
    serving.UnknownJob: Problem(404, "unknown_job", "There is no such job"),
    serving.JobCancelled: Problem(409, "job_cancelled", "The job was cancelled"),
    serving.NothingLive: Problem(409, "nothing_live", "No version of the client is live"),
    serving.NothingToRollBackTo: Problem(409, "nothing_to_roll_back_to", "There is no earlier version"),
    serving.VersionInUse: Problem(409, "version_in_use", "An alias points at the version"),
    serving.AliasConflict: Problem(412, "alias_conflict", "The alias was moved by somebody else"),
    serving.IdempotencyInFlight: Problem(409, "idempotency_in_flight", "The same request is still being worked on"),
    serving.ParentSuperseded: Problem(409, "parent_superseded", "Another version of the client came in between"),
    serving.IdempotencyMismatch: Problem(422, "idempotency_mismatch", "The key was used for another request"),
    # What the service cannot do now
    serving.Overloaded: Problem(503, "overloaded", "The queue is full"),
    serving.DeadlinePassed: Problem(503, "deadline_passed", "It took too long"),
    serving.DecoderUnavailable: Problem(503, "decoder_unavailable", "There is no decoder free"),
    serving.VersionCorrupt: Problem(503, "version_corrupt", "Stored content is damaged"),
    serving.StoreFull: Problem(507, "store_full", "The store is full"),
    serving.StoreUnavailable: Problem(503, "store_unavailable", "The store cannot be reached"),
}

INTERNAL: Final = Problem(500, "internal_error", "The service failed")
PARAMETER: Final = Problem(422, "parameter_invalid", "A parameter or the JSON body is not allowed")
_BY_STATUS: Final[Mapping[int, Problem]] = {
    400: Problem(400, "bad_request", "The request cannot be read"),
    404: Problem(404, "not_found", "There is nothing at this address"),
    405: Problem(405, "method_not_allowed", "The address does not take this method"),
    413: PROBLEMS[refusals.BodyTooLarge],
    415: PROBLEMS[refusals.MediaTypeUnsupported],
}


def problem_of(error: Exception) -> Problem | None:
    """Return the row of the table for the nearest class of `error`, or None if there is none."""
    return next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), None)


def problem_response(
    problem: Problem, detail: str, path: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer of RFC 9457: type, title, status, detail, instance, and our own `code`."""
    content = {
        "type": f"urn:anole:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": detail,
        "instance": path,
    }
    return JSONResponse(content, problem.status, dict(headers or {}), MEDIA_TYPE)


def answer_to(error: Exception, path: str) -> JSONResponse:
    """The answer for an error: by the table, or 500 that tells nothing of what happened."""
    error = _exhaustion(error) or error
    problem = problem_of(error)
    if problem is None:
        return problem_response(INTERNAL, "the service failed; its log has the request's X-Request-ID", path)
    return problem_response(problem, str(error), path, _headers(error, problem))


def _exhaustion(error: Exception) -> serving.ServiceError | None:
    """What an error of the system means where it says that something is used up; None for any other."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_SPACE:
        return serving.StoreFull("no space is left for what is being received; nothing was recorded; free some space")
    used_up = number in _NO_FILES or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if used_up or (isinstance(error, RuntimeError) and str(error).startswith(_NO_THREADS)):
        return serving.Overloaded(
            f"memory, files or threads are used up; try again in {_USED_UP_RETRY_S} s", _USED_UP_RETRY_S
        )
    return None


def install(app: FastAPI) -> None:
    """Make `app` answer every error that is raised on purpose, and every refusal of the framework, with a problem."""
    app.add_exception_handler(learning.AnoleError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_departure)
    app.add_exception_handler(Exception, _on_failure)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    if problem_of(error) is None:
        raise error
    return answer_to(error, request.url.path)


async def _on_departure(request: Request, error: Exception) -> Response:
    return Response(status_code=_DEPARTED)  # to nobody


async def _on_failure(request: Request, error: Exception) -> JSONResponse:
    return answer_to(error, request.url.path)  # and the framework raises it again, to be logged


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    complaints = error.errors() if isinstance(error, RequestValidationError) else []
    return problem_response(PARAMETER, _explain(complaints), request.url.path)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else INTERNAL.status
    if status == 400 and isinstance(error.__cause__, ValueError | RecursionError):  # what reading JSON raises
        detail = "the body cannot be read; send one JSON object in UTF-8, with fewer levels and shorter numbers"
        return problem_response(PARAMETER, detail, request.url.path)
    headers = error.headers if isinstance(error, HTTPException) else None
    phrase = HTTPStatus(status).phrase
    problem = _BY_STATUS.get(status, Problem(status, phrase.lower().replace(" ", "_"), phrase))
    detail = {
        404: f"there is nothing at {request.url.path}; the addresses are listed at /docs",
        405: f"{request.method} is not taken here; allowed is {(headers or {}).get('Allow', 'another method')}",
    }.get(status, f"{phrase.lower()}; see /docs")
    return problem_response(problem, detail, request.url.path, headers)


def _explain(complaints: Sequence[Mapping[str, Any]]) -> str:
    """One line naming every parameter that is wrong and why; what came is not repeated, it may be long."""
    return "; ".join(f"{' '.join(str(step) for step in item['loc'])}: {item['msg']}" for item in complaints)


def _headers(error: Exception, problem: Problem) -> dict[str, str]:
    if isinstance(error, serving.Overloaded):
        return {"Retry-After": str(error.retry_after_s)}
    if problem.status == 401:
        return {"WWW-Authenticate": 'Bearer realm="anole"'}
    if problem.code == "head_ambiguous":
        return {"Connection": "close"}
    if problem.code == "store_unavailable":
        return {"Retry-After": str(_STORE_RETRY_S)}
    return {}
