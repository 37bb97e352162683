"""The rows of the prediction log: inserted in batches, read newest first, and pruned by number and age."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Text, and_, case, cast, delete, func, insert, select

from service.domain.drift import Period, hour_of
from service.domain.prediction_log import Comparison, Judgement, LoggedPrediction, PredictionQuery, Retention
from service.domain.version import LIVE
from service.store.catalog.queries import ClientRow
from service.store.catalog.tables import ALIASES, CLIENTS, PREDICTIONS, RowValues, verify_row, with_checksum

_JUDGED: Final = ("version", "label", "confidence", "unknown_score", "verdict")
_EQUAL: Final = {
    "part": PREDICTIONS.c.part,
    "image": PREDICTIONS.c.image_digest,
    "station": PREDICTIONS.c.station,
    "label": PREDICTIONS.c.label,
    "verdict": PREDICTIONS.c.verdict,
    "version": PREDICTIONS.c.version,
    "candidate": PREDICTIONS.c.candidate_version,
}
"""Names of a query's values -> the columns that must have them."""

_OTHER_LABEL: Final = (PREDICTIONS.c.verdict == "known") & (PREDICTIONS.c.label != PREDICTIONS.c.candidate_label)
_CHANGED: Final = (PREDICTIONS.c.verdict != PREDICTIONS.c.candidate_verdict) | _OTHER_LABEL

_PRUNED_AT_ONCE: Final = 5_000


def add(connection: Connection, predictions: Sequence[LoggedPrediction]) -> int:
    """Insert entries, and return how many. Those of clients that were deleted in the meantime are left out."""
    names = {each.client for each in predictions}
    existing = select(CLIENTS.c.id, CLIENTS.c.name, CLIENTS.c.created_at).where(CLIENTS.c.name.in_(names))
    found = connection.execute(existing.with_for_update(read=True, key_share=True)).all()
    ids = {(row.name, row.created_at): row.id for row in found}
    rows = [
        {"client_id": ids[identity], **with_checksum(PREDICTIONS, each.client, _values(each))}
        for each in predictions
        if (identity := (each.client, each.client_created_at)) in ids
    ]
    if rows:
        connection.execute(insert(PREDICTIONS), rows)
    return len(rows)


def prune(connection: Connection, retention: Retention, now: datetime) -> int:
    """Delete entries that are not kept any more, and return how many: a few thousand at most, the oldest first.

    Each is judged by its own time, because an entry of a machine with a wrong clock says nothing about those before it.
    """
    newest = connection.execute(select(func.max(PREDICTIONS.c.id))).scalar_one() or 0
    oldest = select(PREDICTIONS.c.id, PREDICTIONS.c.at).order_by(PREDICTIONS.c.id).limit(_PRUNED_AT_ONCE).subquery()
    expired = oldest.c.at < now - timedelta(days=retention.days)
    superfluous = oldest.c.id <= newest - retention.rows
    pruned = select(oldest.c.id).where(expired | superfluous)
    return connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.id.in_(pruned))).rowcount


def read(connection: Connection, client: ClientRow, query: PredictionQuery) -> tuple[LoggedPrediction, ...]:
    """Return entries, newest first. Raises VersionCorrupt for a damaged row."""
    wanted = select(PREDICTIONS).where(PREDICTIONS.c.client_id == client.id)
    for name, column in _EQUAL.items():
        if (value := getattr(query, name)) is not None:
            wanted = wanted.where(column == value)
    if query.changed is not None:
        wanted = wanted.where(_CHANGED if query.changed else ~_CHANGED)
    if query.since is not None:
        wanted = wanted.where(PREDICTIONS.c.at >= query.since)
    if query.until is not None:
        wanted = wanted.where(PREDICTIONS.c.at < query.until)
    order = PREDICTIONS.c.at, PREDICTIONS.c.id
    if query.after is not None:
        last = select(*order).where(PREDICTIONS.c.id == query.after, PREDICTIONS.c.client_id == client.id)
        found = connection.execute(last).one_or_none()
        if found is None:  # it was pruned, and so were those before it
            return ()
        following = (PREDICTIONS.c.at < found.at) | (PREDICTIONS.c.id < found.id)
        wanted = wanted.where(PREDICTIONS.c.at <= found.at, following)
    rows = connection.execute(wanted.order_by(*(column.desc() for column in order)).limit(query.limit)).mappings()
    return tuple(_prediction(row, client) for row in rows)


def compare(connection: Connection, client: ClientRow, version: int, candidate: int) -> Comparison:
    """Count the images that both versions judged; no row is verified."""
    judged = (PREDICTIONS.c.version == version) & (PREDICTIONS.c.candidate_version == candidate)
    query = select(
        func.count(),
        _count(~_CHANGED),
        _count(PREDICTIONS.c.verdict == "unknown"),
        _count(PREDICTIONS.c.candidate_verdict == "unknown"),
    ).where(PREDICTIONS.c.client_id == client.id, judged)
    return Comparison(*connection.execute(query).one())


def recent(
    connection: Connection, client: ClientRow, version: int, since: datetime, limit: int
) -> list[tuple[datetime, bool, float]]:
    """Return time, whether it is unknown, and confidence of the newest answers of a version; no row is verified."""
    columns = PREDICTIONS.c.at, PREDICTIONS.c.verdict, PREDICTIONS.c.confidence
    mine = (PREDICTIONS.c.client_id == client.id) & (PREDICTIONS.c.version == version)
    newest = select(*columns).where(mine, PREDICTIONS.c.at >= since).order_by(PREDICTIONS.c.at.desc()).limit(limit)
    return [(row.at, row.verdict == "unknown", row.confidence) for row in connection.execute(newest)]


def live_hours(
    connection: Connection, names: Collection[str], since: datetime, limit: int
) -> Mapping[str, list[Period]]:
    """Count what the live versions of clients said, by the hour, in one query; no row is verified.

    It reads the newest entries of all clients together, `limit` at most, so that its cost is bounded.
    """
    columns = (PREDICTIONS.c[name] for name in ("client_id", "version", "at", "verdict", "confidence"))
    newest = select(*columns).order_by(PREDICTIONS.c.id.desc()).limit(limit).subquery()
    live = and_(ALIASES.c.client_id == newest.c.client_id, ALIASES.c.version == newest.c.version)
    hour = func.substr(cast(newest.c.at, Text), 1, len("2026-01-31 14"))
    query = (
        select(
            CLIENTS.c.name,
            func.min(newest.c.at),
            func.count(),
            _count(newest.c.verdict == "unknown"),
            func.sum(1 - newest.c.confidence),
        )
        .join_from(newest, ALIASES, live)
        .join(CLIENTS, CLIENTS.c.id == newest.c.client_id)
        .where(ALIASES.c.alias == LIVE, newest.c.at >= since, CLIENTS.c.name.in_(names))
        .group_by(CLIENTS.c.name, hour)
        .order_by(func.min(newest.c.at))
    )
    found: defaultdict[str, list[Period]] = defaultdict(list)
    for name, at, images, unknown, doubt in connection.execute(query):
        found[name].append(Period(hour_of(at), images, unknown, doubt))
    return found


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _values(prediction: LoggedPrediction) -> dict[str, Any]:
    answered, candidate = prediction.judgement, prediction.candidate
    return {
        "at": prediction.at,
        "image_digest": prediction.image_digest,
        "part": prediction.part,
        "station": prediction.station,
        "request_id": prediction.request_id,
        **{name: getattr(answered, name) for name in _JUDGED},
        **{f"candidate_{name}": None if candidate is None else getattr(candidate, name) for name in _JUDGED},
    }


def _prediction(row: RowValues, client: ClientRow) -> LoggedPrediction:
    verify_row(PREDICTIONS, client.name, row, f"entry {row['id']} of the prediction log of client {client.name!r}")
    candidate = None
    if row["candidate_version"] is not None:
        candidate = Judgement(*(row[f"candidate_{name}"] for name in _JUDGED))
    return LoggedPrediction(
        client=client.name,
        client_created_at=client.created_at,
        at=row["at"],
        image_digest=row["image_digest"],
        part=row["part"],
        station=row["station"],
        request_id=row["request_id"],
        judgement=Judgement(*(row[name] for name in _JUDGED)),
        candidate=candidate,
        id=row["id"],
    )
