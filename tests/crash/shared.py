"""Kills processes whose store is in PostgreSQL and S3 before every writing call, and stops PostgreSQL."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from service.errors import StoreUnavailable
from tests.crash import run as runs
from tests.crash.calls import watch
from tests.crash.campaign import KILLED, MAX_DELAY_S, MAX_EVENTS, Findings, process, received
from tests.crash.checks import check_store
from tests.crash.model import State
from tests.crash.run import Run, perform_run
from tests.crash.stores import Servers

STOPS_PER_STORE: Final = 10


class KillAtCall:
    """Kills its own process right before its n-th writing call, counted from 1. A commit counts before and after."""

    def __init__(self, call: int) -> None:
        self._left = call

    def before(self, _name: str, *_arguments: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, name: str, *_arguments: Any) -> None:
        if name == "commit":
            self.before(name)


def run_until_call(run: Run, call: int, pipe: Connection) -> None:
    """Run until that call, then kill this process."""
    perform_run(run, pipe.send, lambda: watch(KillAtCall(call)))
    pipe.close()


def kill_shared_at_every_call(
    servers: Servers, kinds: Sequence[str], *, safe_steps: int | None = None, fault: str | None = None
) -> Findings:
    """Kill a process before each of its writing calls in turn, each on a new store; stop at the first problem.

    The first process is not killed: a problem that it shows has another cause.
    """
    call, acknowledged, killed = 0, 0, True
    while killed:
        with servers.new_store() as location:
            run = Run(location, {}, kinds=tuple(kinds), fault=fault, safe_steps=safe_steps)
            with process(run_until_call, run, call) as (running, pipe):
                events = list(received(pipe))
                running.join()
                killed = running.exitcode == KILLED
            acknowledged += sum(event.result is not None for event in events)
            problems = check_store(location, {}, events).problems
            if problems:
                return Findings(call, acknowledged, problems)
        killed |= call == 0
        call += 1
    return Findings(call - 2, acknowledged, ())


def stop_database_at_random(servers: Servers, stops: int, *, seed: int, fault: str | None = None) -> Findings:
    """Stop PostgreSQL at random moments without warning, and start it again; stop at the first problem.

    What it had not written to its files by then is lost. A step that gets no response fails.
    """
    generator = np.random.default_rng(seed)
    acknowledged = 0
    for start in range(0, stops, STOPS_PER_STORE):
        with servers.new_store() as location:
            state: State = {}
            for stop in range(start, min(start + STOPS_PER_STORE, stops)):
                run = Run(location, state, first=stop * 1000, seed=int(generator.integers(1 << 32)), fault=fault)
                with process(runs.run_and_report, run) as (running, pipe):
                    events = list(itertools.islice(received(pipe), int(generator.integers(1, MAX_EVENTS))))
                    running.join(float(generator.uniform(0, MAX_DELAY_S)))
                    servers.postgres.stop()
                    events += received(pipe)
                servers.postgres.start()
                events = [event for event in events if not (event.failure or "").startswith(StoreUnavailable.__name__)]
                acknowledged += sum(event.result is not None for event in events)
                checked = check_store(location, state, events)
                if checked.problems:
                    return Findings(stop + 1, acknowledged, checked.problems)
                state = checked.state
    return Findings(stops, acknowledged, ())
