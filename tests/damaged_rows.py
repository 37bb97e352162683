"""A filled catalog, all its reads, and changes to its rows: for the tests of damaged rows and for their benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Column, Connection, String, Table, select

from models.errors import AnoleError
from service.domain.client import ClientSettings
from service.domain.job import JobRecord, JobUpdate, Progress
from service.domain.key import Grant, KeyRecord, new_key, record_of
from service.domain.prediction_log import Judgement, LoggedPrediction, PredictionQuery, Retention
from service.domain.version import LIVE, Idempotency
from service.store.catalog.catalog import Catalog
from service.store.catalog.keys import SqlKeys
from service.store.catalog.tables import METADATA, SAMPLES, UtcDateTime
from service.store.ports import Database, utc_now
from tests.contract.values import CLIENT, a_draft, digest_of

OTHER = "line-2"
KEY = Idempotency("key-1", digest_of("body"))
JOB = "1" * 32
LINKS = {"id", "client_id", "version_id"}
CHECKED_COLUMNS = [
    (table, column)
    for table in METADATA.sorted_tables
    for column in table.columns
    if column.name not in LINKS and (table is not SAMPLES or column.name != "position")
]
"""The columns that checksums cover, and the checksums."""


def filled(database: Database) -> tuple[Catalog, KeyRecord]:
    catalog = Catalog(database)
    for client in (CLIENT, OTHER):
        catalog.publish(a_draft(client), [LIVE], idempotency=KEY)
        catalog.publish(a_draft(client, weights="second"), [LIVE])
        catalog.update_settings(client, ClientSettings(keep_last=5))
    catalog.jobs.add(JobRecord(JOB, CLIENT, "worker", None, utc_now()))
    catalog.jobs.end(JobUpdate(JOB, "cancelled", Progress()))  # so that it does not change when its lease is over
    catalog.add_predictions([a_prediction(catalog)], Retention(days=90, rows=100))
    record = record_of(new_key(), Grant("camera", ("predict",), (CLIENT,)), utc_now())
    SqlKeys(database).add(record)
    return catalog, record


def a_prediction(catalog: Catalog) -> LoggedPrediction:
    said = Judgement(2, "scratch", 0.75, 0.25, "known")
    created_at = catalog.client(CLIENT).created_at
    candidate = replace(said, version=1, label="dent")
    return LoggedPrediction(
        CLIENT, created_at, utc_now(), digest_of("file"), "0417", "camera", "request", said, candidate
    )


def needed(catalog: Catalog) -> frozenset[str]:
    with catalog.holding(CLIENT) as digests:
        return digests


READS: dict[str, Callable[[Catalog], Any]] = {
    "clients": lambda catalog: [replace(client, versions=0) for client in catalog.clients()],
    "client": lambda catalog: replace(catalog.client(CLIENT), versions=0),
    "versions": lambda catalog: catalog.versions(CLIENT),
    "first": lambda catalog: catalog.version(CLIENT, 1),
    "latest": lambda catalog: catalog.latest(CLIENT),
    "lineage": lambda catalog: catalog.lineage(CLIENT).base,
    "served live": lambda catalog: catalog.served(CLIENT, LIVE),
    "served first": lambda catalog: catalog.served(CLIENT, 1),
    "alias": lambda catalog: catalog.alias(CLIENT, LIVE),
    "history": lambda catalog: catalog.history(CLIENT),
    "predictions": lambda catalog: catalog.predictions(CLIENT, PredictionQuery()),
    "recall": lambda catalog: catalog.recall(CLIENT, KEY),
    "settings": lambda catalog: catalog.settings(CLIENT),
    "needed": needed,
    "job": lambda catalog: catalog.jobs.get(JOB),
}


def read_results(catalog: Catalog) -> dict[str, Any]:
    """Return the result of every read; for a read that raises, the class of its error."""
    found: dict[str, Any] = {}
    for name, read in READS.items():
        try:
            found[name] = read(catalog)
        except AnoleError as error:
            found[name] = type(error)
    return found


def changed(value: Any) -> Any:
    """Return another value of the same type."""
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 4
    if isinstance(value, float):
        return value + 0.25
    if isinstance(value, str):
        return chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
    if isinstance(value, dict):
        return {**value, "steps": 99}
    if isinstance(value, list):
        return [*value, "more"]
    return value.replace(year=value.year + 1)


def change(connection: Connection, table: Table, column: Column[Any]) -> None:
    """Change one column of the first row of a table."""
    first = select(table).order_by(*table.primary_key.columns).limit(1)
    row = connection.execute(first).mappings().one()
    this = [key == row[key.name] for key in table.primary_key.columns]
    value = changed(row[column.name])
    if row[column.name] is None and isinstance(column.type, UtcDateTime):
        value = utc_now()
    elif row[column.name] is None and isinstance(column.type, String):
        value = "x"
    connection.execute(table.update().where(*this).values({column.name: value}))


def wrong_results(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the reads that succeed with another result than before; errors and empty results are not wrong."""
    return {name for name in before if after[name] != before[name] and after[name] and type(after[name]) is not type}
