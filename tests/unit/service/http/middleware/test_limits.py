"""Limits on the rate and the concurrency of requests, per caller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.domain.key import Grant
from service.errors import RateExceeded
from service.http.app import create_app
from service.http.middleware import auth
from service.http.middleware.rates import LocalTable, RateLimit, RateLimiter
from service.settings import load_settings
from service.usecases.keys import KeyCache, create
from tests.in_process import PNG, Web, started
from tests.unit.service.fakes import FakeServices


class Clock:
    """Monotonic seconds that a test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def send(limiter: RateLimiter, caller: str, count: int) -> int:
    """Return how many of `count` consecutive requests are allowed."""
    allowed = 0
    for _ in range(count):
        try:
            with limiter.request(caller):
                allowed += 1
        except RateExceeded:
            continue
    return allowed


def test_a_caller_may_send_a_burst_of_two_seconds_and_then_its_rate(clock: Clock) -> None:
    limiter = RateLimiter(RateLimit(in_flight=9, rate_per_s=10), clock)
    assert send(limiter, "a", 100) == 20
    clock.now += 0.5
    assert send(limiter, "a", 100) == 5
    clock.now += 1000
    assert send(limiter, "a", 100) == 20


def test_a_flood_of_one_caller_does_not_limit_another(clock: Clock) -> None:
    limiter = RateLimiter(RateLimit(in_flight=9, rate_per_s=1), clock)
    send(limiter, "a", 100)
    assert send(limiter, "b", 2) == 2


def test_a_rejection_says_when_to_try_again(clock: Clock) -> None:
    limiter = RateLimiter(RateLimit(in_flight=9, rate_per_s=0.1), clock)
    with limiter.request("a"), pytest.raises(RateExceeded) as rejected, limiter.request("a"):
        pass
    assert rejected.value.retry_after_s == 10
    clock.now += 10
    assert send(limiter, "a", 1) == 1


def test_requests_at_the_same_time_are_limited_and_failed_ones_do_not_count(clock: Clock) -> None:
    limiter = RateLimiter(RateLimit(in_flight=2), clock)
    with limiter.request("a"):
        with pytest.raises(KeyError), limiter.request("a"):
            raise KeyError("x")
        with limiter.request("a"), pytest.raises(RateExceeded), limiter.request("a"):
            pass
        with limiter.request("b"):
            assert send(limiter, "a", 1) == 1


def test_idle_callers_are_forgotten_and_busy_ones_are_not(clock: Clock) -> None:
    table = LocalTable(max_callers=3)
    limiter = RateLimiter(RateLimit(in_flight=1), clock, table)
    with limiter.request("busy"):
        for number in range(100):
            send(limiter, str(number), 1)
        assert len(table) == 3
        with pytest.raises(RateExceeded), limiter.request("busy"):
            pass


@pytest.fixture
def narrow(services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A service that allows two requests per key, one of them an adaptation, and three per address."""
    monkeypatch.setattr(auth, "KEY_ADAPTING", 1)
    monkeypatch.setattr(auth, "ADDRESS_IN_FLIGHT", 3)
    settings = load_settings(key_in_flight=2, adapt_running=8)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web


class Held:
    """Adaptations that run until the test releases them."""

    def __init__(self, web: Web) -> None:
        self._running, self._released = threading.Semaphore(0), threading.Event()
        web.services.adaptation.before = self._hold

    def _hold(self) -> None:
        self._running.release()
        self._released.wait(30)

    def wait_for(self, count: int) -> None:
        assert all(self._running.acquire(timeout=30) for _ in range(count))

    def let_go(self) -> None:
        self._released.set()


@pytest.fixture
def held(narrow: Web) -> Iterator[Held]:
    adaptations = Held(narrow)
    yield adaptations
    adaptations.let_go()


def adapt(web: Web, key: str | None) -> int:
    headers = {} if key is None else {"X-API-Key": key}
    fields = {"client": "line", "labels": ["good", "bad"]}
    return web("POST", "/adapt", data=fields, files=[("samples", (n, PNG)) for n in "12"], headers=headers).status_code


def test_a_key_with_too_many_adaptations_gets_429_and_others_are_served(narrow: Web, held: Held) -> None:
    first, second = (create(narrow.services.kept_keys, Grant(n, ("predict", "adapt"), ("*",)))[0] for n in "12")
    narrow.services.keys.read()
    with ThreadPoolExecutor(2) as threads:
        responses = [threads.submit(adapt, narrow, first)]
        held.wait_for(1)
        for path in ("/adapt", "/clients/line/upgrade", "/clients/line/corrections"):
            response = narrow("POST", path, headers={"X-API-Key": first})
            assert (response.status_code, response.json()["code"]) == (429, "rate_exceeded")
            assert int(response.headers["retry-after"]) > 0
        assert narrow("GET", "/clients", headers={"X-API-Key": first}).status_code == 200
        responses.append(threads.submit(adapt, narrow, second))
        held.wait_for(1)
        assert 'anole_refused_total{work="rate"} 3.0' in narrow("GET", "/metrics", headers={"X-API-Key": first}).text
        held.let_go()
        assert [done.result() for done in responses] == [201, 201]


def test_a_service_without_keys_limits_each_address(narrow: Web, held: Held) -> None:
    with ThreadPoolExecutor(3) as threads:
        responses = [threads.submit(adapt, narrow, None) for _ in range(3)]
        held.wait_for(3)
        assert narrow("GET", "/clients").status_code == 429
        assert narrow("GET", "/livez").status_code == 200
        held.let_go()
        assert [done.result() for done in responses] == [201, 201, 201]


def test_keys_are_not_read_again_while_they_are_fresh(services: FakeServices) -> None:
    cache = KeyCache(services.kept_keys, open_without_keys=True)
    cache.read()
    assert cache.fresh
    assert services.kept_keys.reads == 1
