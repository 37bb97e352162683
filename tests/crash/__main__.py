"""Kills processes that use a store, simulates power loss, and repeats both with seeded faults.

    python -m tests.crash [--kills 10000] [--seed 0] [--part kills|calls|traced|power|bugs]...

Exits with 1 if the store was wrong after any kill, or if a seeded fault was not found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.compiled_statements import share_compiled_statements
from tests.crash.campaign import Findings, kill_at_every_call, kill_at_random
from tests.crash.faults import FAULTS
from tests.crash.power_loss import record_run, simulate_power_loss
from tests.crash.steps import EVERY_KIND
from tests.crash.system_calls import TRACED, StraceUnavailable, kill_at_every_system_call

KILLS_PER_ROW: Final = 1000


def main() -> int:
    """Run the parts and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10_000, help="number of processes killed at random moments")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random steps and moments")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="run only this part; can be repeated")
    arguments = parser.parse_args()
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
    if fault.found_by == "calls":
        return kill_at_every_call(fault.kinds, safe_steps=len(fault.kinds) - 1, fault=name)
    try:
        return kill_at_every_system_call(fault.kinds, calls=("pwrite64",), fault=name)
    except StraceUnavailable as reason:
        sys.stdout.write(f"STRACE IS NOT AVAILABLE: this fault cannot be found ({reason})\n")
        return Findings(0, 0, ())


PARTS: Final[dict[str, Callable[[argparse.Namespace], bool]]] = {
    "kills": kills, "calls": calls, "traced": traced, "power": power, "bugs": faults,
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
