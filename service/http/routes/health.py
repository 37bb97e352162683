"""Liveness, readiness and metrics of the process."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Response

from service.http.dependencies import ContextDep, ServicesDep
from service.http.schemas import resources as schemas
from service.http.scopes import ANY_KEY
from service.telemetry import METRICS_MEDIA_TYPE

router = APIRouter(tags=["operations"])


@router.get("/livez", summary="Liveness")
async def livez() -> schemas.Liveness:
    """Respond if the event loop runs. Nothing else is checked."""
    return schemas.Liveness()


@router.get(
    "/readyz",
    summary="Readiness",
    responses={503: {"model": schemas.Readiness, "description": "A check failed, or the process is stopping"}},
)
def readyz(services: ServicesDep, response: Response) -> schemas.Readiness:
    """Check that the store can be read, that the model in memory is intact, that images can be decoded and that the
    process is not stopping.

    If the service requires keys, only the log has the reason of a failure, which may contain paths and host names.
    """
    report = services.readiness.report()
    response.status_code = 200 if report.ready else 503
    failed = {name: text for name, text in report.checks.items() if text != "ok"}
    if failed:
        structlog.get_logger("anole.readiness").warning("not ready", **failed)
    shown = report.checks if services.keys.open else {**report.checks, **dict.fromkeys(failed, "failed")}
    return schemas.Readiness(status="ready" if report.ready else "not ready", checks=dict(shown))


@router.get(
    "/metrics",
    summary="Metrics",
    dependencies=[ANY_KEY],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(context: ContextDep) -> Response:
    """Metrics of all workers in the text format of Prometheus. No label has the name of a client.

    Counters and histograms are sums over all workers, those that have ended included. Gauges are sums over the workers
    that run, and at most a second old."""
    return Response(context.telemetry.exposition(), media_type=METRICS_MEDIA_TYPE)
