"""Waiting for a moment without requests."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from service.runtime.quiet import InFlight

LONG = 30.0


def test_it_is_quiet_when_nothing_is_in_flight() -> None:
    in_flight = InFlight()
    assert in_flight.wait_until_quiet(0.0, LONG)
    done: Future[None] = Future()
    in_flight.add(done)
    done.set_result(None)
    assert in_flight.wait_until_quiet(0.0, LONG)


def test_it_is_not_quiet_while_something_is_in_flight() -> None:
    in_flight = InFlight()
    running: Future[None] = Future()
    in_flight.add(running)
    assert not in_flight.wait_until_quiet(0.0, 0.01)


def test_waiting_ends_when_the_last_request_has_ended() -> None:
    in_flight = InFlight()
    first, second = Future[None](), Future[None]()
    in_flight.add(first)
    in_flight.add(second)
    quiet: list[bool] = []
    waiting = threading.Thread(target=lambda: quiet.append(in_flight.wait_until_quiet(0.0, LONG)))
    waiting.start()
    first.set_result(None)
    assert not quiet
    second.cancel()
    waiting.join(LONG)
    assert quiet == [True]


def test_a_pause_that_ends_too_soon_is_not_quiet() -> None:
    in_flight = InFlight()
    waiting_began = threading.Event()
    quiet: list[bool] = []

    def wait() -> None:
        waiting_began.set()
        quiet.append(in_flight.wait_until_quiet(LONG, 0.01))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting_began.wait(LONG)
    in_flight.add(Future())
    thread.join(LONG)
    assert quiet == [False]
