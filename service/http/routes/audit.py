"""The audit log: who changed what, and when."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from service.domain.audit import AuditEntry, AuditQuery
from service.errors import InvalidName, StoreUnavailable, UnknownClient, VersionCorrupt
from service.http.content_types import CSV_RESPONSE, as_csv, prefers_csv
from service.http.dependencies import MAX_ROW, Page, Paging, PeriodDep, ServicesDep
from service.http.openapi import QUERY, problems
from service.http.problems import InvalidField
from service.http.schemas import audit as schemas
from service.http.scopes import accessible_client, caller_of, require_scope

router = APIRouter(tags=["operations"])


@router.get(
    "/audit",
    summary="Get the audit log",
    response_model=schemas.AuditList,
    dependencies=[require_scope("admin")],
    responses={
        **CSV_RESPONSE,
        **problems(InvalidName, UnknownClient, StoreUnavailable, VersionCorrupt, InvalidField, *QUERY),
    },
)
def get_audit(
    request: Request,
    services: ServicesDep,
    page: Annotated[Page, Depends(Paging("client", "from", "to"))],
    period: PeriodDep,
    client: Annotated[str | None, Query(description="only changes of this client, which may be deleted")] = None,
    after: Annotated[int | None, Query(ge=1, le=MAX_ROW, description="only entries older than this one")] = None,
) -> Any:
    """Get who changed what, newest first: versions, aliases, settings, deletions and keys.

    Entries stay when their client is deleted. A key that can access some clients only gets the entries of those.

    The header `Link` leads to the next page. With `Accept: text/csv`, the answer is CSV.
    """
    accessible = caller_of(request).clients if client is None else frozenset({accessible_client(request, client)})
    found = services.audit(AuditQuery(accessible, period.since, period.until, after, page.limit + 1))
    if len(found) > page.limit:
        page.link_next(found[page.limit - 1].id)
    entries = found[: page.limit]
    if prefers_csv(request):
        return as_csv(schemas.AuditRow, map(_row, entries), page.response)
    page.response.headers["Vary"] = "Accept"
    return schemas.AuditList(entries=[_entry(entry) for entry in entries])


def _entry(entry: AuditEntry) -> schemas.AuditEntry:
    return schemas.AuditEntry.model_validate({**asdict(entry), "request_id": entry.actor.request_id})


def _row(entry: AuditEntry) -> schemas.AuditRow:
    actor = {"actor": entry.actor.id, "actor_name": entry.actor.name, "request_id": entry.actor.request_id}
    return schemas.AuditRow.model_validate({**asdict(entry), **actor})
