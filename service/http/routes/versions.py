"""The versions of a client: list, read, compare, delete, and download their weights."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from service.domain.client import ClientSummary
from service.domain.diff import VersionDiff
from service.domain.report import ClassEstimate, HeldOutPrediction, held_out_predictions, report_fields
from service.domain.version import Version, VersionSummary
from service.errors import UnknownCheckpoint, UnknownVersion, VersionInUse
from service.http.dependencies import MAX_VERSION, PageDep, ServicesDep, VersionPath
from service.http.openapi import PARAMETERS, QUERY, READ, WRITE, problems
from service.http.schemas import reports
from service.http.schemas import resources as schemas
from service.http.scopes import ANY_KEY, ClientPath, require_scope

router = APIRouter(prefix="/clients/{client}/versions", tags=["versions"])

_WEIGHTS: Final = "application/octet-stream"


@router.get("", summary="List versions", dependencies=[ANY_KEY], responses=problems(*READ, *QUERY))
def list_versions(
    client: ClientPath,
    services: ServicesDep,
    page: PageDep,
    after: Annotated[int, Query(ge=0, le=MAX_VERSION, description="only versions with a higher number")] = 0,
) -> schemas.VersionList:
    """List the versions of a client, oldest first. Deleted versions are left out.

    The header `Link` leads to the next page.
    """
    summary = services.clients.get(client)
    found = services.clients.versions(client, after, page.limit + 1)
    if len(found) > page.limit:
        page.link_next(found[page.limit - 1].number)
    infos = [_version_info(version, summary) for version in found[: page.limit]]
    return schemas.VersionList(client=client, live=summary.live, versions=infos)


@router.get(
    "/{version}",
    summary="Get a version",
    dependencies=[ANY_KEY],
    responses=problems(*READ, UnknownVersion, PARAMETERS),
)
def get_version(client: ClientPath, version: VersionPath, services: ServicesDep) -> schemas.VersionDetails:
    """Get everything that is recorded about a version, including its samples and its report."""
    summary = services.clients.get(client)
    return _version_details(services.clients.version(client, version), summary)


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
    return _version_diff(services.clients.diff(client, before, after))


@router.delete(
    "/{version}",
    status_code=204,
    summary="Delete a version",
    dependencies=[require_scope("admin")],
    responses=problems(*WRITE, UnknownVersion, VersionInUse, PARAMETERS),
)
def delete_version(client: ClientPath, version: VersionPath, services: ServicesDep) -> None:
    """Delete the samples and weights of a version. Its number is not used again. Versions with aliases are kept."""
    services.clients.delete_version(client, version)


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
    content = services.clients.weights(client, version)
    digest = hashlib.sha256(content)
    headers = {
        "Content-Disposition": f'attachment; filename="{client}-{version}.safetensors"',
        "ETag": f'"{digest.hexdigest()}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode('ascii')}:",
    }
    return Response(content, media_type=_WEIGHTS, headers=headers)


def _version_info(version: VersionSummary, summary: ClientSummary) -> schemas.VersionInfo:
    return schemas.VersionInfo(
        client=version.client,
        version=version.number,
        parent=version.parent,
        classes=list(version.classes),
        samples=version.samples,
        aliases=sorted(name for name, move in summary.aliases.items() if move.version == version.number),
        model=version.meta_model,
        weights=schemas.Weights(digest=version.weights_digest, bytes=version.weights_bytes),
        support_accuracy=version.report["support_accuracy"],
        estimated_accuracy=version.report["estimated_accuracy"],
        gate=version.report["gate"]["decision"],
        created_at=version.created_at,
    )


def _version_details(version: Version, summary: ClientSummary) -> schemas.VersionDetails:
    draft = version.draft
    predictions, confusion = held_out_predictions(draft), draft.report.get("confusion")
    return schemas.VersionDetails(
        **dict(_version_info(VersionSummary.of(version), summary)),
        model_digest=draft.meta_model_digest,
        recipe=dict(draft.recipe),
        seed=draft.seed,
        device=draft.device,
        batched_with=draft.batched_with,
        sample_list=[
            schemas.Sample(
                name=sample.name,
                label=sample.label,
                digest=sample.digest,
                part=sample.part,
                text=sample.second if isinstance(sample.second, str) else None,
                vector=list(sample.second) if isinstance(sample.second, tuple) else None,
                held_out=_held_out(predictions.get(sample.digest)),
            )
            for sample in draft.samples
        ],
        report=reports.Report.model_validate(report_fields(draft)),
        confusion=None if confusion is None else schemas.Confusion(classes=list(draft.classes), counts=confusion),
    )


def _version_diff(diff: VersionDiff) -> reports.VersionDiff:
    old, new = diff.before.draft, diff.after.draft
    return reports.VersionDiff(
        client=new.client,
        before=diff.before.number,
        after=diff.after.number,
        added=list(diff.added),
        removed=list(diff.removed),
        estimate_before=old.report.get("estimated_accuracy"),
        estimate_after=new.report.get("estimated_accuracy"),
        classes=[
            reports.ClassDiff(label=each.label, before=_estimate(each.before), after=_estimate(each.after))
            for each in diff.classes
        ],
        samples_kept=diff.kept,
        samples_added=diff.samples_added,
        samples_removed=diff.samples_removed,
        changed=[
            reports.SampleDiff(
                name=each.sample.name,
                digest=each.sample.digest,
                label_before=each.label_before,
                label_after=each.sample.label,
                before=_held_out(each.before),
                after=_held_out(each.after),
            )
            for each in diff.changed
        ],
    )


def _estimate(estimate: ClassEstimate | None) -> reports.ClassEstimate | None:
    if estimate is None:
        return None
    return reports.ClassEstimate(judged=estimate.total, right=estimate.correct, estimate=estimate.accuracy)


def _held_out(prediction: HeldOutPrediction | None) -> reports.HeldOutPrediction | None:
    if prediction is None:
        return None
    return reports.HeldOutPrediction(
        label=prediction.label,
        confidence=prediction.confidence,
        verdict="known" if prediction.known else "unknown",
    )
