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

from tests.crash import life as lives
from tests.crash.campaign import KILLED, Found, a_folder, heard, process
from tests.crash.judge import Said, judge
from tests.crash.life import Life

SYSTEM_CALLS: Final = (
    "pwrite64", "write", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "mkdir", "rmdir", "utimensat", "openat",
)  # fmt: skip
TRACED: Final = (
    ("publish", "keyed"), ("publish", "publish", "roll_back"), ("publish", "publish", "delete"),
    ("publish", "abandon", "collect"), ("publish", "settings"), ("publish", "erase"),
)  # fmt: skip
"""Short lives whose last step is walked."""


class Untraceable(Exception):
    """There is no strace, or it may not take hold of a process here."""


@contextmanager
def _held(pid: int, call: str, number: int) -> Iterator[None]:
    """The process dies as it enters that call for that time."""
    strace = shutil.which("strace")
    if strace is None:
        raise Untraceable("install the system's package strace")
    inject = f"inject={call}:signal=KILL:when={number}"
    command = [strace, "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject, "-p", str(pid)]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as tracer:
        stderr: Any = tracer.stderr
        said = stderr.readline()
        if "attached" not in said:
            tracer.wait()
            raise Untraceable(said.strip())
        yield


def _died_entering(life: Life, call: str, number: int) -> tuple[bool, list[Said]]:
    with process(lives.live_and_wait, life) as (running, pipe):
        said: list[Said] = []
        while (line := pipe.recv()) is not None:
            said.append(line)
        with _held(running.pid, call, number):
            pipe.send(None)
            said += heard(pipe)
            running.join()
        if running.exitcode not in (0, KILLED) and not any(line.failure for line in said):
            raise RuntimeError(f"a process that should have been killed ended with {running.exitcode}")
        return running.exitcode == KILLED, said


def kill_at_every_system_call(
    kinds: Sequence[str], *, calls: Sequence[str] = SYSTEM_CALLS, bug: str | None = None
) -> Found:
    """Kill a process at each write-like call of the last step, each on a new store; stop at the first wrong.

    Raises:
        Untraceable: there is no strace, or it may not be used.
    """
    deaths = acknowledged = 0
    for call in calls:
        number, died = 0, True
        while died:
            number += 1
            with a_folder() as folder:
                life = Life(folder / "store", {}, kinds=tuple(kinds), calm=len(kinds) - 1, bug=bug)
                died, said = _died_entering(life, call, number)
                wrong = judge(life.folder, {}, said).wrong
            deaths += died
            acknowledged += sum(line.result is not None for line in said)
            if wrong:
                return Found(deaths, acknowledged, wrong)
    return Found(deaths, acknowledged, ())
