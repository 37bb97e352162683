"""The versions of a client: list, read, compare, delete, and download their weights."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from fastapi import APIRouter, Response

from service.errors import UnknownCheckpoint, UnknownVersion, VersionInUse
from service.http import responses as views
from service.http.dependencies import ServicesDep, VersionPath
from service.http.openapi import PARAMETERS, READ, WRITE, problems
from service.http.schemas import reports
from service.http.schemas import resources as schemas
from service.http.scopes import ANY_KEY, ClientPath, require_scope

router = APIRouter(prefix="/clients/{client}/versions", tags=["versions"])

_WEIGHTS: Final = "application/octet-stream"


@router.get("", summary="List versions", dependencies=[ANY_KEY], responses=problems(*READ))
def list_versions(client: ClientPath, services: ServicesDep) -> schemas.VersionList:
    """List the versions of a client, oldest first. Deleted versions are left out."""
    summary = services.lifecycle.client(client)
    return views.version_list(summary, services.lifecycle.versions(client))


@router.get(
    "/{version}",
    summary="Get a version",
    dependencies=[ANY_KEY],
    responses=problems(*READ, UnknownVersion, PARAMETERS),
)
def get_version(client: ClientPath, version: VersionPath, services: ServicesDep) -> schemas.VersionDetails:
    """Get everything that is recorded about a version, including its samples and its report."""
    summary = services.lifecycle.client(client)
    return views.version_details(services.lifecycle.version(client, version), summary)


@router.get(
    "/{before}/diff/{after}",
    summary="Compare two versions",
    dependencies=[ANY_KEY],
    responses=problems(*READ, UnknownVersion, PARAMETERS),
)
def diff_versions(
    client: ClientPath, before: VersionPath, after: VersionPath, services: ServicesDep
) -> reports.VersionDiff:
    """Compare classes, accuracy on held-out samples, and the samples that are predicted differently."""
    return views.version_diff(services.lifecycle.diff(client, before, after))


@router.delete(
    "/{version}",
    status_code=204,
    summary="Delete a version",
    dependencies=[require_scope("admin")],
    responses=problems(*WRITE, UnknownVersion, VersionInUse, PARAMETERS),
)
def delete_version(client: ClientPath, version: VersionPath, services: ServicesDep) -> None:
    """Delete the samples and weights of a version. Its number is not used again. Versions with aliases are kept."""
    services.lifecycle.delete_version(client, version)


@router.get(
    "/{version}/weights",
    summary="Download weights",
    dependencies=[require_scope("admin")],
    response_class=Response,
    responses={
        200: {"content": {_WEIGHTS: {"schema": {"type": "string", "format": "binary"}}}},
        **problems(*READ, UnknownVersion, UnknownCheckpoint, PARAMETERS),
    },
)
def download_weights(client: ClientPath, version: VersionPath, services: ServicesDep) -> Response:
    """Download all weights of a version as a safetensors file. The headers have the SHA-256 of the file."""
    content = services.lifecycle.weights(client, version)
    digest = hashlib.sha256(content)
    headers = {
        "Content-Disposition": f'attachment; filename="{client}-{version}.safetensors"',
        "ETag": f'"{digest.hexdigest()}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode('ascii')}:",
    }
    return Response(content, media_type=_WEIGHTS, headers=headers)
