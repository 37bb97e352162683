"""POST /predict: classifies images with a version of a client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from models.errors import ExplanationUnsupported
from service.domain.client import validate_alias_name
from service.domain.version import LIVE, validate_part, validate_station
from service.errors import (
    InvalidRequest,
    ModalityCountMismatch,
    ModalityUnsupported,
    NothingLive,
    PartCountMismatch,
    UnknownAlias,
    UnknownCheckpoint,
    UnknownVersion,
)
from service.http.dependencies import MAX_VERSION, Context, ContextDep, wait_for
from service.http.log_fields import LOG_FIELDS, log_fields
from service.http.middleware.admission import Slot
from service.http.middleware.limits import SLOT
from service.http.openapi import IMAGES, READ, UPLOAD, problems
from service.http.problems import InvalidField, MissingField
from service.http.schemas import resources as schemas
from service.http.scopes import accessible_client, require_scope
from service.http.uploads import (
    GIVEN,
    GIVEN_FORM,
    Fields,
    FormShape,
    check_size,
    read_form,
    read_query,
    reject_together,
    with_given,
)
from service.runtime.decoder import Upload
from service.settings import Settings
from service.usecases.explain import MAX_EXPLAINED
from service.usecases.predict import PredictOutcome
from service.usecases.recording import Origin

router = APIRouter(tags=["predict"])

_SINGLE: Final = frozenset({"client", "version", "alias", "explain", "station"})
_SHAPE: Final = FormShape(single=_SINGLE, repeated=GIVEN | {"parts", "part"}, files=frozenset({"images"}))
_REFERENCES: Final[dict[str, Any]] = {
    "version": {"type": "integer", "minimum": 1, "maximum": MAX_VERSION, "examples": [""]},
    "alias": {"type": "string", "examples": [""], "description": "instead of a version; default: live"},
    "explain": {
        "type": "string",
        "enum": ["true", "false"],
        "default": "false",
        "description": "true: show in each image where it has what speaks for the predicted class; at most "
        f"{MAX_EXPLAINED} images",
    },
    "station": {"type": "string", "examples": [""], "description": "where the images were taken, to be logged"},
}
_PART: Final[dict[str, Any]] = {"type": "string", "examples": [""], "description": "the physical part, to be logged"}
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["client", "images"],
    "properties": {
        "client": {"type": "string", "examples": ["demo"]},
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "image files"},
        "parts": {
            "type": "array",
            "items": _PART,
            "description": "optional, one per image, in the same order, empty for none: the physical part that it "
            "shows, for the prediction log; may also be called `part`",
        },
        **GIVEN_FORM,
        **_REFERENCES,
    },
}


@router.post(
    "/predict",
    summary="Classify images",
    response_model=schemas.PredictResponse,
    dependencies=[require_scope("predict")],
    responses=problems(
        *UPLOAD,
        *IMAGES,
        *READ,
        UnknownVersion,
        UnknownAlias,
        UnknownCheckpoint,
        NothingLive,
        ExplanationUnsupported,
        InvalidRequest,
        ModalityCountMismatch,
        ModalityUnsupported,
        PartCountMismatch,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": _FORM,
                    "encoding": {name: {"style": "form", "explode": True} for name in ("parts", *sorted(GIVEN))},
                },
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "parameters": [
            {
                "in": "query",
                "name": name,
                "required": False,
                "description": "only with an image as the body",
                "schema": schema,
            }
            for name, schema in {"client": {"type": "string"}, "part": _PART, **_REFERENCES}.items()
        ],
    },
)
async def predict(request: Request, context: ContextDep) -> Response:
    """Classify images with the live version of a client, or with the given version or alias.

    Send a form with `client` and `images`, or one image as the body with `?client=`.

    An image whose `unknown_score` is above the version's `unknown_threshold` gets the verdict `unknown`. The client's
    setting `unknown_rate` decides where the threshold of the next version lies.

    With `explain=true`, `explanation` shows where the adapted net sees what speaks for the predicted class against the
    next one, as a small map of the whole image. It takes about a tenth of a second more per image.

    Versions that were made with the client's setting `uncertainty` = `bayes` average `scores` over what their samples
    leave open about the classes. Each prediction then has an `uncertainty`: of its `total`, the part `model` falls with
    more samples, and the part `data` does not.

    The result for an image depends only on the image, what came with it and the version, not on other images.

    A version that was taught with texts or vectors answers a request without them from the images alone, and
    `modalities` says so.
    """
    fields, images = await _read(request, context.settings)
    client = accessible_client(request, fields.required("client"))
    origin = _origin(request, fields, len(images))
    explains = _explains(fields, len(images))
    outcome = await run_prediction(request, context, client, images, _reference(fields), explains)
    context.services.recorder.record(outcome, origin)
    answer = schemas.PredictResponse.model_validate(outcome)
    wanted = {
        "explanation": explains,
        "modalities": any(each.modalities is not None for each in outcome.predictions),
        "uncertainty": any(image.uncertainty is not None for image in outcome.predictions),
    }
    left_out = {name for name, shown in wanted.items() if not shown}
    body = answer.model_dump_json(exclude={"predictions": {"__all__": left_out}})
    return Response(body, media_type="application/json")


async def run_prediction(
    request: Request,
    context: Context,
    client: str,
    images: Sequence[Upload],
    reference: str,
    explains: bool = False,
) -> PredictOutcome:
    """Predict within the slot of the request, and count the images in metrics and in the request's log line.

    Raises:
        DeadlinePassed, ClientDisconnect, and the errors of `Prediction.submit`.
    """
    slot: Slot = request.scope[SLOT]
    slot.add_images(len(images))
    predicting = context.services.explained if explains else context.services.prediction
    work = predicting.submit(client, images, reference, slot.caller)
    slot.hold_until_done(work)
    outcome = await wait_for(request, work, context.settings.predict_s, setting="ANOLE_PREDICT_S")
    log_fields(request.scope, version=outcome.version, weights_digest=outcome.weights_digest)
    context.telemetry.predict_seconds.observe(outcome.seconds)
    for image in outcome.predictions:
        context.telemetry.images.labels(image.verdict).inc()
    return outcome


async def _read(request: Request, settings: Settings) -> tuple[Fields, tuple[Upload, ...]]:
    if request.headers["content-type"].lower().startswith("image/"):
        fields = read_query(request, _SINGLE | {"part"})
        image = Upload("image", await request.body())
        return fields, (check_size(image, settings),)
    form = await read_form(request, _SHAPE, settings)
    images = form.files.get("images", ())
    if not images:
        raise MissingField("field 'images' is missing; send one or more image files")
    return form.fields, with_given(form.fields, images)


def _origin(request: Request, fields: Fields, images: int) -> Origin:
    """Return where the images came from.

    Raises:
        ConflictingFields, PartCountMismatch, InvalidName.
    """
    reject_together(fields, ("parts", "part"))
    parts = fields.all("parts") or fields.all("part")
    if parts and len(parts) != images:
        raise PartCountMismatch(
            f"the request has {images} images and {len(parts)} parts; send one part for each image, in the same "
            "order, or no parts"
        )
    station = fields.text("station")
    return Origin(
        tuple(validate_part(part) if part.strip() else "" for part in parts),
        None if station is None else validate_station(station),
        request.scope[LOG_FIELDS]["request_id"],
    )


def _explains(fields: Fields, images: int) -> bool:
    """Whether the predictions are to be explained. Raises InvalidField if there are too many images."""
    explains = fields.choice("explain", {"true", "false"}, "false") == "true"
    if explains and images > MAX_EXPLAINED:
        raise InvalidField(
            f"field 'explain' is 'true', and the request has {images} images; allowed: at most {MAX_EXPLAINED}. Send "
            "fewer images, or leave out explain"
        )
    return explains


def _reference(fields: Fields) -> str:
    reject_together(fields, ("version", "alias"))
    version = fields.integer("version", 1, MAX_VERSION)
    if version is not None:
        return str(version)
    alias = fields.text("alias")
    return LIVE if alias is None else validate_alias_name(alias)
