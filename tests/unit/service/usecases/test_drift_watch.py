"""The watch for drift: how often it checks, and how often it warns."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from service.domain.drift import Expectation, Period
from service.errors import UnknownClient
from service.usecases.drift_watch import CHECK_EVERY_S, WARN_EVERY_S, DriftWatch
from service.usecases.judged import DriftReport, Judged

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Shares(Judged):
    """The clients whose every image is unknown; "missing" does not exist."""

    def __init__(self) -> None:
        self.drifting = {"line"}
        self.checked: list[str] = []
        self.deleted = {"missing"}

    def drift(self, client: str, hours: int = 24) -> DriftReport:
        self.checked.append(client)
        if client in self.deleted:
            raise UnknownClient(client)
        total = Period(NOON, 100, 100 if client in self.drifting else 0, 0.0)
        return DriftReport(1, Expectation(0.1, None), total, ())


class Watched:
    """A watch whose time a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.shares = Shares()
        self.watch = DriftWatch(self.shares, lambda: self.now_s)

    def check(self, *clients: str) -> list[str]:
        with structlog.testing.capture_logs() as lines:
            self.watch.check(clients)
        return [line["client"] for line in lines if line["log_level"] == "warning"]


def test_clients_that_drift_are_counted_and_warned_about_once_an_hour() -> None:
    watched = Watched()
    assert watched.check("line", "other") == ["line"]
    assert watched.watch.metrics() == {"drifting_clients": 1}
    watched.now_s = CHECK_EVERY_S
    assert watched.check("line") == []
    watched.now_s = WARN_EVERY_S
    assert watched.check("line") == ["line"]
    watched.shares.drifting.clear()
    watched.now_s = WARN_EVERY_S + CHECK_EVERY_S
    assert watched.check("line") == []
    assert watched.watch.metrics() == {"drifting_clients": 0}


def test_a_client_that_drifted_and_was_deleted_is_not_counted_any_more() -> None:
    watched = Watched()
    watched.check("line")
    assert watched.watch.metrics() == {"drifting_clients": 1}
    watched.shares.deleted.add("line")
    watched.now_s = CHECK_EVERY_S
    watched.check("other")
    assert watched.watch.metrics() == {"drifting_clients": 0}


def test_a_client_is_not_checked_again_too_soon() -> None:
    watched = Watched()
    watched.check("line")
    watched.now_s = CHECK_EVERY_S - 1
    watched.check("line", "other")
    assert watched.shares.checked == ["line", "other"]


def test_a_client_that_cannot_be_checked_stops_nothing() -> None:
    watched = Watched()
    assert watched.check("missing", "line") == ["line"]
