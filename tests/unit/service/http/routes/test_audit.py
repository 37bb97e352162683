"""GET /audit: pages, CSV, and what a key may see."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

from service.domain.audit import Actor, AuditEntry
from tests.in_process import Web
from tests.unit.service.fakes import NOON
from tests.unit.service.http.guarded import key_for


def entry(number: int, client: str | None = "line", name: str = "station 7") -> AuditEntry:
    actor = Actor("anole_abcdefgh", name, f"r{number}")
    at = NOON + timedelta(minutes=number)
    return AuditEntry(number, at, actor, "alias.move", client, {"alias": "live", "version": number})


def shown(answer: Any) -> list[int]:
    assert answer.status_code == 200
    return [each["id"] for each in answer.json()["entries"]]


def test_entries_are_shown_newest_first_in_pages(web: Web) -> None:
    web.services.entries = [entry(1), entry(2), entry(3)]
    first = web("GET", "/audit?limit=2")
    assert shown(first) == [3, 2]
    assert first.headers["link"] == '</audit?limit=2&after=2>; rel="next"'
    last = web("GET", "/audit?limit=2&after=2")
    assert shown(last) == [1]
    assert "link" not in last.headers
    assert last.json()["entries"][0] == {
        "id": 1,
        "at": "2026-03-01T12:01:00Z",
        "actor": {"id": "anole_abcdefgh", "name": "station 7"},
        "request_id": "r1",
        "action": "alias.move",
        "client": "line",
        "details": {"alias": "live", "version": 1},
    }


def test_the_log_is_answered_as_csv_on_request(web: Web) -> None:
    web.services.entries = [entry(1, name="=1+1"), entry(2)]
    answer = web("GET", "/audit?limit=1&after=2", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["actor_name"] == "'=1+1"
    assert (row["id"], row["client"], row["details"]) == ("1", "line", '{"alias": "live", "version": 1}')
    assert "link" in web("GET", "/audit?limit=1", headers={"Accept": "text/csv"}).headers
    assert shown(web("GET", "/audit", headers={"Accept": "text/csv;q=0.5, application/json"})) == [2, 1]


def test_only_keys_with_the_scope_admin_read_it_and_only_of_their_clients(guarded: Web) -> None:
    guarded.services.entries = [entry(1), entry(2, "other"), entry(3, None)]
    assert guarded("GET", "/audit", headers=key_for(guarded, "predict", "adapt")).status_code == 403
    assert shown(guarded("GET", "/audit", headers=key_for(guarded))) == [3, 2, 1]
    limited = key_for(guarded, clients=("line",))
    assert shown(guarded("GET", "/audit", headers=limited)) == [1]
    assert shown(guarded("GET", "/audit?client=line", headers=limited)) == [1]
    assert guarded("GET", "/audit?client=other", headers=limited).json()["code"] == "unknown_client"


def test_wrong_moments_and_parameters_are_rejected(web: Web) -> None:
    assert web("GET", "/audit?from=yesterday").json()["code"] == "field_invalid"
    assert web("GET", "/audit?to=2026-01-31").json()["code"] == "field_invalid"
    assert web("GET", "/audit?until=2026-01-31T14:31:00Z").json()["code"] == "field_unknown"
    assert shown(web("GET", "/audit?from=2026-01-31T14:31:00Z&to=2026-01-31T14:32:00%2B01:00")) == []
