"""The meta-trained models that clients are adapted from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from service.errors import UnknownCheckpoint
from service.http.dependencies import ServicesDep
from service.http.openapi import problems
from service.http.schemas import resources as schemas
from service.http.scopes import ANY_KEY

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="List models", dependencies=[ANY_KEY])
def list_models(services: ServicesDep) -> schemas.MetaModelList:
    """List the available models. The first one is the default; a client chooses by its setting `model`."""
    return schemas.MetaModelList(
        models=[schemas.MetaModel.model_validate(each) for each in services.checkpoints.list()]
    )


@router.get("/{name}", summary="Get a model", dependencies=[ANY_KEY], responses=problems(UnknownCheckpoint))
def get_meta_model(
    name: Annotated[str, Path(openapi_examples={"efficientnet-lite0": {"value": "efficientnet-lite0"}})],
    services: ServicesDep,
) -> schemas.MetaModel:
    """Get a model with its settings, and how it was trained."""
    return schemas.MetaModel.model_validate(services.checkpoints.get(name))
