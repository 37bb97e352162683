"""Converts domain values to the JSON of the answers."""

from __future__ import annotations

from datetime import datetime

from service.domain.client import ClientSummary
from service.domain.diff import VersionDiff
from service.domain.maintenance import Erasure
from service.domain.report import HELD_OUT, ClassEstimate, HeldOutPrediction, held_out_predictions
from service.domain.version import LIVE, AliasMove, Version, VersionDraft
from service.http.problems import error_response
from service.http.schemas import reports
from service.http.schemas import resources as schemas
from service.http.schemas.base import ProblemDetails
from service.usecases.adapt import AdaptOutcome
from service.usecases.jobs import Job


def adapt_response(outcome: AdaptOutcome) -> schemas.AdaptResponse:
    """The answer of POST /adapt."""
    draft = outcome.version.draft
    return schemas.AdaptResponse(
        client=draft.client,
        version=outcome.version.number,
        parent=draft.parent,
        classes=list(draft.classes),
        published=outcome.published,
        live=outcome.live,
        model=draft.meta_model,
        weights=_weights(draft),
        report=_report(draft),
    )


def job(current: Job) -> schemas.Job:
    """The state of a job."""
    progress, first, outcome, error = current.control.progress, current.control.first, current.outcome, current.error
    return schemas.Job(
        job=current.id,
        client=current.client,
        state=current.state,
        stage=progress.stage,
        steps=schemas.JobSteps(done=progress.steps_done, of=progress.steps, loss=progress.loss),
        first=None if first is None else adapt_response(first),
        result=None if outcome is None else adapt_response(outcome),
        problem=None if error is None else _problem(error, f"/jobs/{current.id}"),
        created_at=current.created_at,
    )


def _problem(error: Exception, path: str) -> ProblemDetails:
    return ProblemDetails.model_validate_json(bytes(error_response(error, path).body))


def alias(move: AliasMove) -> schemas.Alias:
    """An alias after its latest move. Its ETag is the revision in double quotes."""
    return schemas.Alias(
        client=move.client,
        alias=move.alias,
        version=move.version,
        previous=move.previous,
        revision=move.revision,
        etag=f'"{move.revision}"',
        moved_at=move.moved_at,
        reason=move.reason,
    )


def client(summary: ClientSummary) -> schemas.ClientInfo:
    """A client with its aliases."""
    return schemas.ClientInfo(
        client=summary.name,
        created_at=summary.created_at,
        versions=summary.versions,
        latest=summary.latest,
        live=_live(summary),
        aliases=[alias(move) for _, move in sorted(summary.aliases.items())],
    )


def deleted_client(erasure: Erasure) -> schemas.DeletedClient:
    """What was deleted with a client."""
    return schemas.DeletedClient(
        client=erasure.client, versions=erasure.versions, blobs=erasure.blobs, bytes=erasure.blobs_bytes
    )


def history(client_name: str, at: datetime | None, moves: tuple[AliasMove, ...]) -> schemas.History:
    """The log of alias moves, and what was live at its end."""
    live = next((move.version for move in reversed(moves) if move.alias == LIVE), None)
    return schemas.History(client=client_name, at=at, live=live, moves=[alias(move) for move in moves])


def version_list(summary: ClientSummary, versions: tuple[Version, ...]) -> schemas.VersionList:
    """The versions of a client."""
    infos = [version_info(version, summary) for version in versions]
    return schemas.VersionList(client=summary.name, live=_live(summary), versions=infos)


def version_info(version: Version, summary: ClientSummary) -> schemas.VersionInfo:
    """A version as lists show it."""
    draft = version.draft
    report = _report(draft)
    return schemas.VersionInfo(
        client=draft.client,
        version=version.number,
        parent=draft.parent,
        classes=list(draft.classes),
        samples=len(draft.samples),
        aliases=sorted(name for name, move in summary.aliases.items() if move.version == version.number),
        model=draft.meta_model,
        weights=_weights(draft),
        support_accuracy=report.support_accuracy,
        estimated_accuracy=report.estimated_accuracy,
        gate=report.gate.decision,
        created_at=version.created_at,
    )


def version_details(version: Version, summary: ClientSummary) -> schemas.VersionDetails:
    """Everything that is recorded about a version."""
    draft = version.draft
    predictions = held_out_predictions(draft)
    return schemas.VersionDetails(
        **dict(version_info(version, summary)),
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
                held_out=_held_out(predictions.get(sample.digest)),
            )
            for sample in draft.samples
        ],
        report=_report(draft),
    )


def version_diff(diff: VersionDiff) -> reports.VersionDiff:
    """The differences between two versions."""
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


def _live(summary: ClientSummary) -> int | None:
    move = summary.aliases.get(LIVE)
    return move.version if move else None


def _weights(draft: VersionDraft) -> schemas.Weights:
    return schemas.Weights(digest=draft.weights_digest, bytes=draft.weights_bytes)


def _report(draft: VersionDraft) -> reports.Report:
    return reports.Report.model_validate({name: value for name, value in draft.report.items() if name != HELD_OUT})


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
