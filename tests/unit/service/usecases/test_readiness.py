"""Readiness: checks, draining, and signals that interrupt each other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models.errors import CheckpointInvalid
from service.errors import DecoderUnavailable, StoreUnavailable
from service.usecases.readiness import FRESH_S, WEIGHTS_FRESH_S, Readiness, readiness_checks, weights_unchanged

LIMIT_S = 60

HAMMERED = """
import signal
from service.usecases.readiness import Readiness
readiness = Readiness({})
came = 0
def on_alarm(number, frame):
    global came
    came += 1
    readiness.drain()
signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
while came < 2000:
    readiness.drain()
signal.setitimer(signal.ITIMER_REAL, 0)
print(readiness.report().checks["draining"])
"""


def test_a_failed_check_is_reported_with_its_reason() -> None:
    def broken() -> None:
        raise StoreUnavailable("the disk is gone")

    report = Readiness({"store": broken, "meta_model": lambda: None}).report()
    assert not report.ready
    assert report.checks == {"store": "the disk is gone", "meta_model": "ok", "draining": "ok"}


def test_a_service_that_cannot_decode_images_is_not_ready() -> None:
    def starting() -> None:
        raise DecoderUnavailable("no decoder process has started yet", retry_after_s=5)

    report = Readiness(readiness_checks(lambda: None, lambda: "a" * 64, starting)).report()
    assert not report.ready
    assert report.checks["decoder"] == "no decoder process has started yet"


class Clock:
    """A clock that the test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_checks_run_once_a_second_and_draining_is_reported_at_once() -> None:
    clock, checked = Clock(), list[float]()
    readiness = Readiness({"store": lambda: checked.append(clock.now_s)}, clock)
    for clock.now_s in (100.0, 100.5, 100.9, 101.0, 101.2, 102.1):
        assert readiness.report().ready
    assert checked == [100.0, 101.0, 102.1]
    readiness.drain()
    assert not readiness.report().ready


def test_a_check_that_fails_or_recovers_is_noticed_within_a_second() -> None:
    clock, broken = Clock(), True

    def store() -> None:
        if broken:
            raise StoreUnavailable("the disk is gone")

    readiness = Readiness({"store": store}, clock)
    assert not readiness.report().ready
    broken = False
    clock.now_s += FRESH_S
    assert readiness.report().ready


def test_the_weights_are_digested_once_a_minute_and_a_change_is_then_found() -> None:
    clock, digests, computed = Clock(), ["a" * 64, "a" * 64, "b" * 64], list[str]()

    def compute_digest() -> str:
        computed.append(digests[len(computed)])
        return computed[-1]

    check = weights_unchanged(compute_digest, clock)
    for _ in range(100):
        check()
    assert len(computed) == 1
    clock.now_s += WEIGHTS_FRESH_S
    check()
    clock.now_s += WEIGHTS_FRESH_S
    for _ in range(3):
        with pytest.raises(CheckpointInvalid, match="have changed"):
            check()
    assert len(computed) == 3


def test_a_draining_process_is_not_ready() -> None:
    readiness = Readiness({})
    assert readiness.report().ready
    readiness.drain()
    assert not readiness.report().ready


def test_a_signal_handler_that_interrupts_draining_does_not_deadlock() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HAMMERED], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "the process is about to stop"), done.stderr
