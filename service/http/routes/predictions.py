"""The prediction log of a client: which version judged what, what it said, and what the candidate says."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query

from service.domain.drift import Expectation, Period
from service.domain.prediction_log import Judgement, LoggedPrediction, PredictionQuery
from service.domain.version import validate_label, validate_part, validate_station
from service.errors import UnknownAlias, UnknownVersion
from service.http.content_types import CSV_RESPONSE, as_csv, prefers_csv
from service.http.dependencies import (
    MAX_VERSION,
    Page,
    PageDep,
    Paging,
    PeriodDep,
    QueryNames,
    ServicesDep,
    VersionPath,
)
from service.http.openapi import QUERY, READ, problems
from service.http.problems import InvalidField
from service.http.schemas import predictions as schemas
from service.http.scopes import ANY_KEY, ClientPath

router = APIRouter(prefix="/clients/{client}", tags=["predictions"])

_MAX_ID: Final = 2**53
MAX_HOURS: Final = 168
_FILTERS: Final = tuple(schemas.PredictionFilter.model_fields)


async def _filter(wanted: Annotated[schemas.PredictionFilter, Query()]) -> schemas.PredictionFilter:
    """Normalise names as they were when they were logged. PostgreSQL's texts cannot hold a NUL, which is rejected."""
    checks = {"part": validate_part, "station": validate_station, "label": validate_label}
    given = {name: check(text) for name, check in checks.items() if (text := getattr(wanted, name)) is not None}
    return wanted.model_copy(update=given)


@router.get(
    "/predictions",
    summary="List logged predictions",
    response_model=schemas.LoggedPredictionList,
    dependencies=[ANY_KEY],
    responses={**CSV_RESPONSE, **problems(*READ, InvalidField, *QUERY)},
)
def list_predictions(
    client: ClientPath,
    services: ServicesDep,
    page: Annotated[Page, Depends(Paging("from", "to", *_FILTERS))],
    period: PeriodDep,
    wanted: Annotated[schemas.PredictionFilter, Depends(_filter)],
    after: Annotated[
        int | None, Query(ge=1, le=2**53, description="only entries that follow the one of this id")
    ] = None,
) -> Any:
    """List what versions said about images, newest first. The log never holds pixels.

    Predictions are logged while the client's setting `log_predictions` is true, or while the alias `candidate` names a
    version. An entry appears a second or two after its prediction.

    The header `Link` leads to the next page. With `Accept: text/csv`, the answer is CSV.
    """
    query = PredictionQuery(
        **wanted.model_dump(), since=period.since, until=period.until, after=after, limit=page.limit + 1
    )
    found = services.judged.predictions(client, query)
    if len(found) > page.limit:
        page.link_next(found[page.limit - 1].id)
    entries = found[: page.limit]
    if prefers_csv(page.request):
        return as_csv(schemas.LoggedPredictionRow, map(_row, entries), page.response)
    page.response.headers["Vary"] = "Accept"
    return schemas.LoggedPredictionList(client=client, predictions=[logged_prediction(each) for each in entries])


@router.get(
    "/versions/{version}/shadow/{candidate}",
    summary="Compare with the candidate",
    dependencies=[ANY_KEY],
    responses=problems(*READ, UnknownVersion, *QUERY),
)
def get_shadow(
    client: ClientPath,
    version: VersionPath,
    candidate: Annotated[int, Path(ge=1, le=MAX_VERSION, description="number of the candidate")],
    services: ServicesDep,
    page: PageDep,
    after: Annotated[int | None, Query(ge=1, le=_MAX_ID, description="only images after the one of this id")] = None,
) -> schemas.ShadowReport:
    """Get how the candidate judged the images that the version answered, and which answers would change.

    While the alias `candidate` names another version than the live one, it judges the images of each request to the
    live version too, in the background. `POST /clients/{client}/promote` makes it live.

    The header `Link` leads to the next page of changed images.
    """
    found = services.judged.shadow(client, version, candidate, after, page.limit + 1)
    if len(found.changed) > page.limit:
        page.link_next(found.changed[page.limit - 1].id)
    counts = found.counts
    return schemas.ShadowReport(
        client=client,
        version=version,
        candidate=candidate,
        images=counts.images,
        agreement=_share(counts.agreeing, counts.images),
        interval=found.interval,
        unknown=_share(counts.unknown, counts.images),
        candidate_unknown=_share(counts.candidate_unknown, counts.images),
        changed=[logged_prediction(entry) for entry in found.changed[: page.limit]],
    )


@router.get(
    "/drift",
    summary="Get drift",
    dependencies=[ANY_KEY, Depends(QueryNames("hours"))],
    responses=problems(*READ, UnknownAlias, *QUERY),
)
def get_drift(
    client: ClientPath,
    services: ServicesDep,
    hours: Annotated[int, Query(ge=1, le=MAX_HOURS, description="hours to look back")] = 24,
) -> schemas.DriftReport:
    """Get whether the images that the live version judges are unlike those that it was validated on.

    It counts what the prediction log has of the live version: of the newest 20,000 images at most.
    """
    found = services.judged.drift(client, hours)
    return schemas.DriftReport(
        client=client,
        version=found.version,
        drifting=found.drifting,
        expected=schemas.DriftExpectation.model_validate(found.expected),
        total=_period(found.total, found.expected),
        hours=[_period(each, found.expected) for each in found.hours],
    )


def _period(period: Period, expected: Expectation) -> schemas.DriftPeriod:
    unknown, errors = period.drifts(expected)
    return schemas.DriftPeriod(
        since=period.since,
        images=period.images,
        unknown=_share(period.unknown, period.images),
        errors=_share(period.doubt, period.images),
        above=[*(["unknown"] if unknown else []), *(["errors"] if errors else [])],
    )


def _share(count: float, images: int) -> float | None:
    return count / images if images else None


def logged_prediction(entry: LoggedPrediction) -> schemas.LoggedPrediction:
    """Return an entry as the answer has it."""
    return schemas.LoggedPrediction(
        **_judgement(entry.judgement),
        id=entry.id,
        at=entry.at,
        image=entry.image_digest,
        part=entry.part,
        station=entry.station,
        request_id=entry.request_id,
        candidate=None if entry.candidate is None else schemas.Judgement(**_judgement(entry.candidate)),
    )


def _row(entry: LoggedPrediction) -> schemas.LoggedPredictionRow:
    values = logged_prediction(entry).model_dump(exclude={"candidate"})
    names = schemas.Judgement.model_fields
    candidate = {f"candidate_{name}": getattr(entry.candidate, name, None) for name in names}
    return schemas.LoggedPredictionRow(**values, **candidate)


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {name: getattr(judgement, name) for name in schemas.Judgement.model_fields}
