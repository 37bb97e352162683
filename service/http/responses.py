"""Values of the domain to the JSON of the answers; pure functions, one a kind of answer."""

from __future__ import annotations

from datetime import datetime

from service.domain.client import ClientSettings, ClientSummary
from service.domain.diff import VersionDiff
from service.domain.maintenance import Erasure
from service.domain.report import HELD_OUT, ClassEstimate, HeldOutPrediction, held_out_predictions
from service.domain.version import LIVE, AliasMove, Version
from service.http.preconditions import etag
from service.http.problems import answer_to
from service.http.schemas import reports
from service.http.schemas import resources as schemas
from service.http.schemas.base import ProblemDetails
from service.http.schemas.resources import Job as JobInfo
from service.http.schemas.resources import JobSteps
from service.usecases.adapt import AdaptOutcome
from service.usecases.checkpoints import CheckpointSummary
from service.usecases.jobs import Job
from service.usecases.predict import PredictOutcome


def adapted(outcome: AdaptOutcome) -> schemas.AdaptResponse:
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
        weights=schemas.Weights(digest=draft.weights_digest, bytes=draft.weights_bytes),
        report=_report(outcome.version),
    )


def job(own: Job) -> JobInfo:
    """A job as it is now."""
    progress, first, outcome, error = own.ticket.progress, own.ticket.first, own.outcome, own.error
    return JobInfo(
        job=own.number,
        client=own.client,
        state=own.state,
        stage=progress.stage,
        steps=JobSteps(done=progress.steps_done, of=progress.steps, loss=progress.loss),
        first=None if first is None else adapted(first),
        result=None if outcome is None else adapted(outcome),
        problem=None if error is None else _problem(error, own),
        created_at=own.created_at,
    )


def _problem(error: Exception, own: Job) -> ProblemDetails:
    return ProblemDetails.model_validate_json(bytes(answer_to(error, f"/jobs/{own.number}").body))


def predicted(outcome: PredictOutcome) -> schemas.PredictResponse:
    """The answer of POST /predict."""
    return schemas.PredictResponse(
        client=outcome.client,
        version=outcome.version,
        weights_digest=outcome.weights_digest,
        predictions=[
            schemas.ImagePrediction(
                name=image.name,
                label=image.label,
                confidence=image.confidence,
                scores=dict(image.scores),
                familiarity=image.familiarity,
                verdict=image.verdict,
            )
            for image in outcome.predictions
        ],
        seconds=outcome.seconds,
    )


def alias(move: AliasMove) -> schemas.Alias:
    """Where an alias points after `move`."""
    return schemas.Alias(
        client=move.client,
        alias=move.alias,
        version=move.version,
        previous=move.previous,
        revision=move.revision,
        etag=etag(move),
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


def version_list(summary: ClientSummary, versions: tuple[Version, ...]) -> schemas.VersionList:
    """A client's versions."""
    infos = [version_info(version, summary) for version in versions]
    return schemas.VersionList(client=summary.name, live=_live(summary), versions=infos)


def version_info(version: Version, summary: ClientSummary) -> schemas.VersionInfo:
    """A version as a row of a listing."""
    draft = version.draft
    report = _report(version)
    return schemas.VersionInfo(
        client=draft.client,
        version=version.number,
        parent=draft.parent,
        classes=list(draft.classes),
        samples=len(draft.samples),
        aliases=sorted(name for name, move in summary.aliases.items() if move.version == version.number),
        model=draft.meta_model,
        weights=schemas.Weights(digest=draft.weights_digest, bytes=draft.weights_bytes),
        support_accuracy=report.support_accuracy,
        estimated_accuracy=report.estimated_accuracy,
        gate=report.gate.decision,
        created_at=version.created_at,
    )


def version_details(version: Version, summary: ClientSummary) -> schemas.VersionDetails:
    """A version with all that it records."""
    draft = version.draft
    answers = held_out_predictions(draft)
    return schemas.VersionDetails(
        **dict(version_info(version, summary)),
        model_digest=draft.meta_model_digest,
        recipe=dict(draft.recipe),
        seed=draft.seed,
        device=draft.device,
        batched_with=draft.batched_with,
        sample_list=[
            schemas.Sample(
                name=sample.name, label=sample.label, digest=sample.digest, held_out=_answer(answers.get(sample.digest))
            )
            for sample in draft.samples
        ],
        report=_report(version),
    )


def history(client_name: str, at: datetime | None, live: int | None, moves: tuple[AliasMove, ...]) -> schemas.History:
    """The log of alias moves and what was live at its end."""
    return schemas.History(client=client_name, at=at, live=live, moves=[alias(move) for move in moves])


def choices(settings: ClientSettings) -> schemas.ClientSettings:
    """A client's settings."""
    return schemas.ClientSettings.model_validate(settings.to_json())


def chosen(body: schemas.ClientSettings) -> ClientSettings:
    """The settings that a request asks for."""
    return ClientSettings.from_json(body.model_dump())


def erased(erasure: Erasure) -> schemas.DeletedClient:
    """What a deletion took away."""
    return schemas.DeletedClient(
        client=erasure.client, versions=erasure.versions, blobs=erasure.blobs, bytes=erasure.blobs_bytes
    )


def meta_model(summary: CheckpointSummary) -> schemas.MetaModel:
    """A meta-trained start."""
    return schemas.MetaModel(
        name=summary.name,
        digest=summary.digest,
        net=dict(summary.net),
        recipe=dict(summary.recipe),
        image=dict(summary.image),
        card=dict(summary.card),
    )


def _live(summary: ClientSummary) -> int | None:
    move = summary.aliases.get(LIVE)
    return move.version if move else None


def version_diff(diff: VersionDiff) -> reports.VersionDiff:
    """Two versions side by side."""
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
            reports.ClassDiff(label=own.label, before=_estimate(own.before), after=_estimate(own.after))
            for own in diff.classes
        ],
        samples_kept=diff.kept,
        samples_added=diff.samples_added,
        samples_removed=diff.samples_removed,
        changed=[
            reports.SampleDiff(
                name=own.sample.name,
                digest=own.sample.digest,
                label_before=own.label_before,
                label_after=own.sample.label,
                before=_answer(own.before),
                after=_answer(own.after),
            )
            for own in diff.changed
        ],
    )


def _estimate(own: ClassEstimate | None) -> reports.ClassEstimate | None:
    return None if own is None else reports.ClassEstimate(judged=own.total, right=own.correct, estimate=own.accuracy)


def _answer(own: HeldOutPrediction | None) -> reports.HeldOutPrediction | None:
    if own is None:
        return None
    return reports.HeldOutPrediction(
        label=own.label, confidence=own.confidence, verdict="known" if own.known else "unknown"
    )


def _report(version: Version) -> reports.Report:
    answered = {name: value for name, value in version.draft.report.items() if name != HELD_OUT}
    return reports.Report.model_validate(answered)
