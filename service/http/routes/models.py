"""GET /models: the meta-trained starts on offer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from service.http import responses as views
from service.http.dependencies import ServicesDep, problems
from service.http.schemas import resources as schemas

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="List the meta-models")
def list_meta_models(services: ServicesDep) -> schemas.MetaModelList:
    """The meta-models on offer, each with its card; the first is the one in use."""
    return schemas.MetaModelList(models=[views.meta_model(summary) for summary in services.meta_models.list()])


@router.get("/{name}", summary="Read a meta-model", responses=problems(404))
def read_meta_model(
    name: Annotated[str, Path(openapi_examples={"surfaces": {"value": "surfaces"}})], services: ServicesDep
) -> schemas.MetaModel:
    """One meta-model with its card."""
    return views.meta_model(services.meta_models.get(name))
