"""Kills processes at every system call that writes, including those within a commit of SQLite, with ``strace``.

``strace`` attaches to a waiting process and kills it at its n-th call of a name; for each name, n is counted up until a
process finishes. The threads of the pool are counted separately.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tests.crash import run as runs
from tests.crash.campaign import KILLED, Findings, process, received
from tests.crash.checks import Event, check_store
from tests.crash.run import Run
from tests.crash.stores import in_folder

SYSTEM_CALLS: Final = (
    "pwrite64", "write", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "mkdir", "rmdir", "utimensat", "openat",
)  # fmt: skip
TRACED: Final = (
    ("publish", "keyed"), ("publish", "publish", "roll_back"), ("publish", "publish", "delete"),
    ("publish", "abandoned_write", "collect"), ("publish", "settings"), ("publish", "delete_client"),
)  # fmt: skip
"""Short runs; processes are killed in the last step."""


class StraceUnavailable(Exception):
    """strace is not installed, or may not attach to a process here."""


@contextmanager
def attached(pid: int, *options: str) -> Iterator[None]:
    """Within the context, strace traces the process and its threads with these options, until the process ends.

    Raises:
        StraceUnavailable: strace is not installed, or may not attach.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise StraceUnavailable("install the system package strace")
    command = [strace, "-f", *options, "-p", str(pid)]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as tracer:
        stderr: Any = tracer.stderr
        line = stderr.readline()
        if "attached" not in line:
            tracer.wait()
            raise StraceUnavailable(line.strip())
        yield


def _run_killed_at(run: Run, call: str, number: int) -> tuple[bool, list[Event]]:
    with process(runs.run_and_wait, run) as (running, pipe):
        events: list[Event] = []
        while (event := pipe.recv()) is not None:
            events.append(event)
        inject = f"inject={call}:signal=KILL:when={number}"
        with attached(running.pid, "-o", "/dev/null", "-e", f"trace={call}", "-e", inject):
            pipe.send(None)
            events += received(pipe)
            running.join()
        if running.exitcode not in (0, KILLED) and not any(event.failure for event in events):
            raise RuntimeError(f"a process that should have been killed ended with {running.exitcode}")
        return running.exitcode == KILLED, events


def kill_at_every_system_call(
    kinds: Sequence[str], *, calls: Sequence[str] = SYSTEM_CALLS, fault: str | None = None
) -> Findings:
    """Kill a process at each writing system call of the last step, each on a new store; stop at the first problem.

    Raises:
        StraceUnavailable: strace is not installed, or may not be used.
    """
    kills = acknowledged = 0
    for call in calls:
        number, killed = 0, True
        while killed:
            number += 1
            with in_folder() as location:
                run = Run(location, {}, kinds=tuple(kinds), safe_steps=len(kinds) - 1, fault=fault)
                killed, events = _run_killed_at(run, call, number)
                problems = check_store(location, {}, events).problems
            kills += killed
            acknowledged += sum(event.result is not None for event in events)
            if problems:
                return Findings(kills, acknowledged, problems)
    return Findings(kills, acknowledged, ())
