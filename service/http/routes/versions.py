"""The versions of a client: list, read, delete, and their weights as a file."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from fastapi import APIRouter, Response

from service.http import responses as views
from service.http.dependencies import ClientPath, ServicesDep, VersionPath, problems
from service.http.schemas import reports
from service.http.schemas import resources as schemas

router = APIRouter(prefix="/clients/{client}/versions", tags=["versions"])

_WEIGHTS_MEDIA_TYPE: Final = "application/octet-stream"


@router.get("", summary="List the versions", responses=problems(404, 422, 503))
def list_versions(client: ClientPath, services: ServicesDep) -> schemas.VersionList:
    """The versions that were not deleted, oldest first."""
    summary = services.lifecycle.client(client)
    return views.version_list(summary, services.lifecycle.versions(client))


@router.get("/{version}", summary="Read a version", responses=problems(404, 422, 503))
def read_version(client: ClientPath, version: VersionPath, services: ServicesDep) -> schemas.VersionDetails:
    """Everything a version records: what it was adapted on and how, and its report."""
    summary = services.lifecycle.client(client)
    return views.version_details(services.lifecycle.version(client, version), summary)


@router.get("/{before}/diff/{after}", summary="Compare two versions", responses=problems(404, 422, 503))
def read_diff(
    client: ClientPath, before: VersionPath, after: VersionPath, services: ServicesDep
) -> reports.VersionDiff:
    """Classes added and removed, how each class fared among left-out samples, and kept samples judged differently."""
    return views.version_diff(services.lifecycle.diff(client, before, after))


@router.delete("/{version}", status_code=204, summary="Delete a version", responses=problems(404, 409, 422, 503))
def delete_version(client: ClientPath, version: VersionPath, services: ServicesDep) -> None:
    """Let a version's samples and weights go. Its number stays taken; a version that an alias points at stays."""
    services.lifecycle.delete_version(client, version)


@router.get(
    "/{version}/weights",
    summary="Download a version's weights",
    response_class=Response,
    responses={
        200: {"content": {_WEIGHTS_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        **problems(404, 422, 503),
    },
)
def read_weights(client: ClientPath, version: VersionPath, services: ServicesDep) -> Response:
    """A safetensors file with all weights that the version predicts with; the headers carry the file's SHA-256."""
    content = services.lifecycle.weights(client, version)
    digest = hashlib.sha256(content)
    headers = {
        "Content-Disposition": f'attachment; filename="{client}-{version}.safetensors"',
        "ETag": f'"{digest.hexdigest()}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode('ascii')}:",
    }
    return Response(content, media_type=_WEIGHTS_MEDIA_TYPE, headers=headers)
