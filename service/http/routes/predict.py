"""POST /predict: images and a client in, verdicts out."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from service.domain.names import validate_alias_name, validate_client_name
from service.domain.version import LIVE
from service.http import responses as views
from service.http.dependencies import HIGHEST_VERSION, Context, ContextDep, problems
from service.http.errors import FieldMissing
from service.http.forms import Fields, FormShape, check_size, read_form, read_query
from service.http.middleware.logging import NOTES
from service.http.schemas import resources as schemas
from service.http.waiting import answered
from service.usecases.uploads import Upload

router = APIRouter(tags=["predict"])

_SHAPE: Final = FormShape(
    single=frozenset({"client", "version", "alias"}), repeated=frozenset(), files=frozenset({"images"})
)
_REFERENCES: Final[dict[str, Any]] = {
    "version": {"type": "integer", "minimum": 1, "examples": [""], "description": "judge by this version"},
    "alias": {"type": "string", "examples": [""], "description": "judge by the version this alias points at; live"},
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["client", "images"],
                    "properties": {
                        "client": {"type": "string", "examples": ["demo"]},
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        **_REFERENCES,
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "parameters": [
        {
            "in": "query",
            "name": name,
            "required": False,
            "description": "only with a raw image as the body",
            "schema": schema,
        }
        for name, schema in {"client": {"type": "string"}, **_REFERENCES}.items()
    ],
}


@router.post(
    "/predict",
    summary="Judge images by a client's version",
    response_model=schemas.PredictResponse,
    responses=problems(400, 404, 409, 413, 415, 422, 503),
    openapi_extra=_BODY,
)
async def predict(request: Request, context: ContextDep) -> Response:
    """Send a form with `client` and `images`, or one image as the body with `?client=`.

    The answer depends on the image and the version alone, never on what else is being judged.
    """
    return await judge(request, context)


async def judge(request: Request, context: Context) -> Response:
    """What `predict` answers; the application calls it directly."""
    context.predict_limit.refuse_when_full()
    fields, images = await _read(request, context)
    client = validate_client_name(fields.required("client"))
    submit = partial(context.services.prediction.submit, client, images, _reference(fields))
    work = context.mailbox.expect(context.predict_limit.submitted(submit, len(images)))
    outcome = await answered(request, work, context.settings.predict_s)
    request.scope[NOTES].update(client=client, version=outcome.version, weights_digest=outcome.weights_digest)
    context.telemetry.predict_seconds.observe(outcome.seconds)
    for image in outcome.predictions:
        context.telemetry.images.labels(image.verdict).inc()
    return Response(views.predicted(outcome).model_dump_json(), media_type="application/json")


async def _read(request: Request, context: Context) -> tuple[Fields, tuple[Upload, ...]]:
    if request.headers["content-type"].lower().startswith("image/"):
        fields = read_query(request, _SHAPE.single)
        image = Upload("image", await request.body())
        return fields, (check_size(image, context.settings),)
    form = await read_form(request, _SHAPE, context.settings)
    images = form.files.get("images", ())
    if not images:
        raise FieldMissing("field 'images' is missing; give one or more image files")
    return form.fields, images


def _reference(fields: Fields) -> str:
    fields.only_one_of("version", "alias")
    version = fields.integer("version", 1, HIGHEST_VERSION)
    if version is not None:
        return str(version)
    alias = fields.text("alias")
    return LIVE if alias is None else validate_alias_name(alias)
