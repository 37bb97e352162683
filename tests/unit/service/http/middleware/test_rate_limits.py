"""Shares: so many requests a second and in work for one caller, whatever the others do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.domain.key import Grant
from service.errors import RateExceeded
from service.http.app import create_app
from service.http.middleware import auth
from service.http.middleware.rate_limits import Allowance, Allowances
from service.settings import load_settings
from service.usecases.keys import KeyCache, create
from tests.in_process import PNG, Web, started
from tests.unit.service.fakes import FakeServices


class Clock:
    """Monotonic seconds that move when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def send(shares: Allowances, caller: str, count: int) -> int:
    """How many of `count` requests one after another are let in."""
    taken = 0
    for _ in range(count):
        try:
            with shares.taken(caller):
                taken += 1
        except RateExceeded:
            continue
    return taken


def test_a_caller_may_send_two_seconds_worth_at_once_and_then_its_rate(clock: Clock) -> None:
    shares = Allowances(Allowance(in_flight=9, rate_per_s=10), clock)
    assert send(shares, "a", 100) == 20
    clock.now += 0.5
    assert send(shares, "a", 100) == 5
    clock.now += 1000
    assert send(shares, "a", 100) == 20


def test_one_caller_s_flood_takes_nothing_from_another(clock: Clock) -> None:
    shares = Allowances(Allowance(in_flight=9, rate_per_s=1), clock)
    send(shares, "a", 100)
    assert send(shares, "b", 2) == 2


def test_a_refusal_says_when_to_come_again(clock: Clock) -> None:
    shares = Allowances(Allowance(in_flight=9, rate_per_s=0.1), clock)
    with shares.taken("a"), pytest.raises(RateExceeded) as refused, shares.taken("a"):
        pass
    assert refused.value.retry_after_s == 10
    clock.now += 10
    assert send(shares, "a", 1) == 1


def test_so_many_are_in_work_at_once_and_one_that_fails_gives_its_place_back(clock: Clock) -> None:
    shares = Allowances(Allowance(in_flight=2), clock)
    with shares.taken("a"):
        with pytest.raises(KeyError), shares.taken("a"):
            raise KeyError("x")
        with shares.taken("a"), pytest.raises(RateExceeded), shares.taken("a"):
            pass
        with shares.taken("b"):
            assert send(shares, "a", 1) == 1


def test_idle_callers_are_forgotten_and_busy_ones_are_not(clock: Clock) -> None:
    shares = Allowances(Allowance(in_flight=1), clock, remembered=3)
    with shares.taken("busy"):
        for number in range(100):
            send(shares, str(number), 1)
        assert len(shares) == 3
        with pytest.raises(RateExceeded), shares.taken("busy"):
            pass


@pytest.fixture
def narrow(services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A service where one key may have two requests in work, one of them an adaptation, and one address three."""
    monkeypatch.setattr(auth, "KEY_ADAPTING", 1)
    monkeypatch.setattr(auth, "ADDRESS_IN_FLIGHT", 3)
    settings = load_settings(key_in_flight=2, adapt_running=8)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web


class Held:
    """Adaptations that run until they are let go."""

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


def test_one_key_s_adaptations_are_its_own_429_and_others_are_served(narrow: Web, held: Held) -> None:
    first, second = (create(narrow.services.kept_keys, Grant(n, ("predict", "adapt"), ("*",)))[0] for n in "12")
    narrow.services.keys.read()
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(adapt, narrow, first)]
        held.wait_for(1)
        answer = narrow("POST", "/adapt", headers={"X-API-Key": first})
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_exceeded")
        assert int(answer.headers["retry-after"]) > 0
        assert narrow("GET", "/clients", headers={"X-API-Key": first}).status_code == 200
        answers.append(threads.submit(adapt, narrow, second))
        held.wait_for(1)
        assert 'anole_refused_total{work="rate"} 1.0' in narrow("GET", "/metrics", headers={"X-API-Key": first}).text
        held.let_go()
        assert [done.result() for done in answers] == [201, 201]


def test_an_open_service_counts_by_address(narrow: Web, held: Held) -> None:
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(adapt, narrow, None) for _ in range(3)]
        held.wait_for(3)
        assert narrow("GET", "/clients").status_code == 429
        assert narrow("GET", "/livez").status_code == 200
        held.let_go()
        assert [done.result() for done in answers] == [201, 201, 201]


def test_the_book_of_keys_reads_nothing_while_it_is_fresh(services: FakeServices) -> None:
    book = KeyCache(services.kept_keys, open_without_keys=True)
    book.read()
    assert book.fresh
    assert services.kept_keys.reads == 1
