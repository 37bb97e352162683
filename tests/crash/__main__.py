"""Kills processes that use a store, simulates power loss, and repeats both with seeded faults.

    python -m tests.crash [--kills 10000] [--seed 0] [--part kills|calls|traced|power|files|shared|bugs]...

Exits with 1 if the store was wrong after any kill, or if a seeded fault was not found.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest
import structlog

from tests.compiled_statements import share_compiled_statements
from tests.crash.campaign import Findings, kill_at_every_call, kill_at_random
from tests.crash.faults import FAULTS
from tests.crash.power_loss import record_run, simulate_power_loss
from tests.crash.recording import record_files
from tests.crash.run import Run
from tests.crash.shared import kill_shared_at_every_call, stop_database_at_random
from tests.crash.steps import EVERY_KIND, IN_FOLDERS_ONLY
from tests.crash.stores import Servers, in_folder
from tests.crash.system_calls import TRACED, StraceUnavailable, kill_at_every_system_call
from tests.real_parts import CREDENTIALS, ObjectServer, PostgresServer

KILLS_PER_ROW: Final = 1000
RECORDED: Final = (("keyed",), *TRACED, ("publish", "backup"), ("publish", "backup", "delete_client", "backup"))
"""Short runs; the first is recorded from the creation of the store, of the others only the last step."""
FILES_SHARE: Final = 0.1
"""The share of the disks with SQLite's files that is checked: a random selection of hundreds per run."""
SHARED_SHARE: Final = 20
"""One kill of so many happens to a process whose store is in PostgreSQL and S3, and one stop of PostgreSQL to five."""


def main() -> int:
    """Run the parts and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10_000, help="number of processes killed at random moments")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random steps and moments")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="run only this part; can be repeated")
    arguments = parser.parse_args()
    os.environ.update(CREDENTIALS)  # before the first process starts
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    share_compiled_statements(pytest.MonkeyPatch())
    print_row("what", "tried", "steps acknowledged", "problems", "seconds")
    print_row(*["---"] * 5)
    failed = [name for name in arguments.part or PARTS if PARTS[name](arguments)]
    return int(bool(failed))


def kills(arguments: argparse.Namespace) -> bool:
    """Kill processes at random moments; print a row for every thousand, and one for all."""
    began, kills, acknowledged, problems = time.monotonic(), 0, 0, 0
    for start in range(0, arguments.kills, KILLS_PER_ROW):
        found = kill_at_random(min(KILLS_PER_ROW, arguments.kills - start), seed=arguments.seed + start)
        kills += found.kills
        acknowledged += found.acknowledged
        problems += bool(found.problems)
        print_result(f"SIGKILL at random moments, from {arguments.seed + start}", found, began)
    print_row("SIGKILL at random moments", kills, acknowledged, problems, f"{time.monotonic() - began:.0f}")
    return bool(problems)


def calls(_arguments: argparse.Namespace) -> bool:
    """Kill a process before every writing call of a run with every kind of step, from the creation of the store."""
    began = time.monotonic()
    found = kill_at_every_call(EVERY_KIND)
    print_result("SIGKILL before every writing call", found, began)
    return bool(found.problems)


def traced(_arguments: argparse.Namespace) -> bool:
    """Kill a process at every writing system call, including those within a commit of SQLite, with strace."""
    for kinds in TRACED:
        began = time.monotonic()
        try:
            found = kill_at_every_system_call(kinds)
        except StraceUnavailable as reason:
            sys.stdout.write(f"STRACE IS NOT AVAILABLE: no process was killed within a commit of SQLite ({reason})\n")
            return False
        print_result(f"SIGKILL at every writing system call: {kinds[-1]}", found, began)
        if found.problems:
            return True
    return False


def power(arguments: argparse.Namespace) -> bool:
    """Check every disk that a power loss during the same run could leave."""
    began = time.monotonic()
    kinds = [kind for kind in EVERY_KIND if kind != "backup"]  # SQLite writes a backup's catalog, which is not recorded
    found = simulate_power_loss(record_run(kinds), seed=arguments.seed)
    print_result("disks that a power loss could leave", found, began)
    return bool(found.problems)


def files(arguments: argparse.Namespace) -> bool:
    """Check every disk that a power loss during short runs could leave, with SQLite's files and with both journals."""
    for wal in (False, True):
        for kinds in RECORDED:
            began = time.monotonic()
            try:
                found = _lose_power(kinds, arguments.seed, wal=wal)
            except StraceUnavailable as reason:
                sys.stdout.write(f"STRACE IS NOT AVAILABLE: no power loss within a commit of SQLite ({reason})\n")
                return False
            journal = "write-ahead log" if wal else "rollback journal"
            print_result(f"disks with SQLite's {journal} that a power loss could leave: {kinds[-1]}", found, began)
            if found.problems:
                return True
    return False


def _lose_power(kinds: tuple[str, ...], seed: int, *, wal: bool = False, fault: str | None = None) -> Findings:
    safe_steps = len(kinds) - 1 or None
    with in_folder() as location:
        entries = record_files(Run(location, {}, kinds=kinds, fault=fault, safe_steps=safe_steps, wal=wal))
    return simulate_power_loss(entries, seed=seed, share=1.0 if fault else FILES_SHARE)


def shared(arguments: argparse.Namespace) -> bool:
    """Kill processes whose store is in PostgreSQL and S3, and stop PostgreSQL without warning."""
    kills = -(-arguments.kills // SHARED_SHARE)
    with shared_servers() as servers:
        began = time.monotonic()
        found = kill_at_random(kills, seed=arguments.seed, new_store=servers.new_store)
        print_result("SIGKILL at random moments, PostgreSQL and S3", found, began)
        began = time.monotonic()
        kinds = [kind for kind in EVERY_KIND if kind not in IN_FOLDERS_ONLY]
        every = kill_shared_at_every_call(servers, kinds)
        print_result("SIGKILL before every writing call, PostgreSQL and S3", every, began)
        began = time.monotonic()
        stopped = stop_database_at_random(servers, -(-kills // 5), seed=arguments.seed)
        print_result("PostgreSQL stopped at random moments", stopped, began)
    return bool(found.problems or every.problems or stopped.problems)


@contextmanager
def shared_servers() -> Iterator[Servers]:
    """Start a PostgreSQL and an S3 server."""
    with ExitStack() as stop:
        objects, postgres = ObjectServer(), PostgresServer()
        stop.callback(objects.remove)
        stop.callback(postgres.remove)
        yield Servers(postgres, objects)


def faults(arguments: argparse.Namespace) -> bool:
    """Repeat the campaign with each seeded fault, until it finds the fault."""
    began, missed = time.monotonic(), 0
    for name, fault in FAULTS.items():
        found = _find_fault(name, arguments.seed)
        missed += not found.problems
        print_row(
            f"seeded, by {fault.found_by}: {fault.description}",
            found.kills,
            found.acknowledged,
            "found" if found.problems else "MISSED",
            "",
        )
    print_row(
        "seeded faults found", f"{len(FAULTS) - missed} of {len(FAULTS)}", "", "", f"{time.monotonic() - began:.0f}"
    )
    return bool(missed)


def _find_fault(name: str, seed: int) -> Findings:
    fault = FAULTS[name]
    if fault.found_by == "power":
        return simulate_power_loss(record_run(fault.kinds, fault=name), seed=seed)
    if fault.found_by in ("shared", "stops"):
        with shared_servers() as servers:
            if fault.found_by == "stops":
                return stop_database_at_random(servers, 100, seed=seed, fault=name)
            safe_steps = len(fault.kinds) - 1
            return kill_shared_at_every_call(servers, fault.kinds, safe_steps=safe_steps, fault=name)
    if fault.found_by == "calls":
        return kill_at_every_call(fault.kinds, safe_steps=len(fault.kinds) - 1, fault=name)
    try:
        if fault.found_by == "files":
            return _lose_power(fault.kinds, seed, fault=name)
        return kill_at_every_system_call(fault.kinds, calls=("pwrite64",), fault=name)
    except StraceUnavailable as reason:
        sys.stdout.write(f"STRACE IS NOT AVAILABLE: this fault cannot be found ({reason})\n")
        return Findings(0, 0, ())


PARTS: Final[dict[str, Callable[[argparse.Namespace], bool]]] = {
    "kills": kills, "calls": calls, "traced": traced, "power": power, "files": files,
    "shared": shared, "bugs": faults,
}  # fmt: skip


def print_result(what: str, found: Findings, began: float) -> None:
    """Print the row of a part, and each problem."""
    print_row(what, found.kills, found.acknowledged, len(found.problems), f"{time.monotonic() - began:.0f}")
    sys.stdout.writelines(f"    {one}\n" for one in found.problems)


def print_row(*cells: object) -> None:
    """Print a row of the table."""
    sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
