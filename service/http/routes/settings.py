"""GET and PUT /clients/{client}/settings: what a client chooses for itself."""

from __future__ import annotations

from fastapi import APIRouter

from service.http import responses as views
from service.http.dependencies import ClientPath, ServicesDep, problems
from service.http.schemas import resources as schemas

router = APIRouter(prefix="/clients/{client}/settings", tags=["clients"])


@router.get("", summary="Read a client's settings", responses=problems(404, 422, 503))
def read_settings(client: ClientPath, services: ServicesDep) -> schemas.ClientSettings:
    """What the client chose; a client that never chose has the defaults."""
    return views.choices(services.lifecycle.settings(client))


@router.put("", summary="Set a client's settings", responses=problems(415, 422, 503, 507))
def put_settings(client: ClientPath, chosen: schemas.ClientSettings, services: ServicesDep) -> schemas.ClientSettings:
    """Replace all settings; one that is left out is set to its default. Makes the client if there is none.

    `retain_samples: false` erases every stored image of the client at once, and none is stored from then on: a version
    is then made of what one request brings (`mode=replace`), and cannot be extended.
    """
    return views.choices(services.lifecycle.update_settings(client, views.chosen(chosen)))
