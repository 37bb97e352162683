"""Readiness: checks, draining, and signals that interrupt each other."""

from __future__ import annotations

import subprocess
import sys

from service.errors import StoreUnavailable
from service.usecases.readiness import Readiness

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
