"""What machines ask about the process itself: is it alive, may it get requests, what are its figures."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Response

from service.http.dependencies import ContextDep, ServicesDep
from service.http.schemas import resources as schemas
from service.telemetry import METRICS_MEDIA_TYPE

router = APIRouter(tags=["operations"])


@router.get("/livez", summary="Is the process alive?")
async def live() -> schemas.Liveness:
    """Answered by the event loop alone."""
    return schemas.Liveness()


@router.get(
    "/readyz",
    summary="May requests be sent here?",
    responses={503: {"model": schemas.Readiness, "description": "A check failed, or the process is about to stop"}},
)
def ready(services: ServicesDep, response: Response) -> schemas.Readiness:
    """Catalog and blobs can be read, the meta-model is the one that was loaded, and the process is not stopping.

    Where a key is needed elsewhere, what is wrong is told to the log alone: it may name folders and hosts.
    """
    report = services.readiness.report()
    response.status_code = 200 if report.ready else 503
    wrong = {name: text for name, text in report.checks.items() if text != "ok"}
    if wrong:
        structlog.get_logger("anole.readiness").warning("not ready", **wrong)
    told = report.checks if services.keys.open else {**report.checks, **dict.fromkeys(wrong, "failed")}
    return schemas.Readiness(status="ready" if report.ready else "not ready", checks=dict(told))


@router.get(
    "/metrics",
    summary="Figures in Prometheus' text format",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(context: ContextDep) -> Response:
    """Figures of this process alone; no label carries a client's name."""
    return Response(context.telemetry.exposition(), media_type=METRICS_MEDIA_TYPE)
