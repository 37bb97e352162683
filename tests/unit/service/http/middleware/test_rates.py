"""Rates and concurrency of a caller that hold in all workers of a service."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from service.errors import RateExceeded
from service.http.app import create_app
from service.http.middleware import auth, rates
from service.http.middleware.rates import RateLimit, RateLimiter, SharedTable, Usage
from service.settings import Settings
from service.workers import WorkerPlace
from tests.in_process import started
from tests.unit.service.fakes import FakeServices
from tests.unit.service.http.middleware.test_limits import Clock, send

IDLE = Usage(5.0, 0.0)


def limiters(folder: Path, limit: RateLimit, clock: Clock) -> list[RateLimiter]:
    """Return the limiter of each of two workers."""
    return [RateLimiter(limit, clock, SharedTable(WorkerPlace(folder), "keys")) for _ in range(2)]


def test_a_caller_has_one_rate_in_all_workers(tmp_path: Path) -> None:
    clock = Clock()
    one, other = limiters(tmp_path, RateLimit(in_flight=99, rate_per_s=10), clock)
    assert send(one, "a", 15) + send(other, "a", 15) == 20
    assert send(one, "b", 30) == 20
    clock.now += 0.5
    assert [send(other, "a", 4), send(one, "a", 4)] == [4, 1]


def test_a_caller_has_one_limit_of_requests_at_the_same_time_in_all_workers(tmp_path: Path) -> None:
    one, other = limiters(tmp_path, RateLimit(in_flight=2), Clock())
    with one.request("a"), other.request("a"):
        for limiter in (one, other):
            with pytest.raises(RateExceeded, match="2 requests"), limiter.request("a"):
                pass
        assert send(other, "b", 1) == 1
    with other.request("a"), other.request("a"), pytest.raises(RateExceeded), one.request("a"):
        pass


def test_requests_of_a_dead_worker_do_not_count_once_another_has_its_place(tmp_path: Path) -> None:
    place = WorkerPlace(tmp_path)
    limit = RateLimit(in_flight=1)
    dead = RateLimiter(limit, Clock(), SharedTable(place, "keys"))
    with ExitStack() as never_ended:
        never_ended.enter_context(dead.request("a"))
        place.leave(last_deletes=False)
        following = RateLimiter(limit, Clock(), SharedTable(WorkerPlace(tmp_path), "keys"))
        assert send(following, "a", 1) == 1


def test_tables_of_different_names_are_separate(tmp_path: Path) -> None:
    place = WorkerPlace(tmp_path)
    limit = RateLimit(in_flight=1)
    keys, addresses = (RateLimiter(limit, Clock(), SharedTable(place, name)) for name in ("keys", "addresses"))
    with keys.request("a"), addresses.request("a"):
        pass


def test_the_caller_that_was_idle_for_longest_gives_way_and_a_busy_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "_SETS", 1)
    table, clock = SharedTable(WorkerPlace(tmp_path), "keys"), Clock()
    limiter = RateLimiter(RateLimit(in_flight=1, rate_per_s=0.001, burst_s=1000), clock, table)
    with limiter.request("busy"):
        for number in range(20):
            clock.now += 1
            assert send(limiter, f"caller-{number}", 2) == 1
        assert [send(limiter, f"caller-{number}", 1) for number in (19, 18, 1)] == [0, 0, 1]
        with pytest.raises(RateExceeded, match="1 requests"), limiter.request("busy"):
            pass


def test_a_rejected_request_leaves_the_table_usable(tmp_path: Path) -> None:
    table = SharedTable(WorkerPlace(tmp_path), "keys")
    with pytest.raises(KeyError), table.changing("a", IDLE):
        raise KeyError
    with table.changing("a", IDLE) as usage:
        assert usage == IDLE


def test_the_workers_of_a_service_share_the_limits_of_requests_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(auth, "PUBLIC_RATE_PER_S", 0.001)
    monkeypatch.setattr(auth, "DELAY_S", 0.0)
    services = [FakeServices(), FakeServices()]
    with (
        started(create_app(settings, lambda _: services[0], WorkerPlace(tmp_path)), services[0]) as one,
        started(create_app(settings, lambda _: services[1], WorkerPlace(tmp_path)), services[1]) as other,
    ):
        assert one("GET", "/docs/start.js").status_code == 200
        assert other("GET", "/docs/start.js").json()["code"] == "rate_exceeded"
