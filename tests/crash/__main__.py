"""The campaign: a store whose process dies again and again, and the faults that it would have found.

    python -m tests.crash [--kills 10000] [--seed 0] [--part kills|calls|traced|power|bugs]...

Ends with 1 if any death left something wrong, or a seeded fault was not found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Final

from tests.crash.campaign import Found, kill_at_every_call, kill_at_random
from tests.crash.power import lose_power, recorded
from tests.crash.seeded import BUGS
from tests.crash.statements import keep_statements
from tests.crash.steps import EVERY_KIND
from tests.crash.traced import TRACED, Untraceable, kill_at_every_system_call

AT_ONCE: Final = 1000


def main() -> int:
    """Do the parts and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10_000, help="how many processes are killed at random moments")
    parser.add_argument("--seed", type=int, default=0, help="what steps and moments are drawn from")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="do these alone")
    given = parser.parse_args()
    keep_statements()
    row("what", "tried", "steps acknowledged", "wrong", "seconds")
    row(*["---"] * 5)
    failed = [name for name in given.part or PARTS if PARTS[name](given)]
    return int(bool(failed))


def kills(given: argparse.Namespace) -> bool:
    """Processes killed at random moments; a row for every thousand, and one for all."""
    began, deaths, acknowledged, wrong = time.monotonic(), 0, 0, 0
    for begin in range(0, given.kills, AT_ONCE):
        found = kill_at_random(min(AT_ONCE, given.kills - begin), seed=given.seed + begin)
        deaths += found.deaths
        acknowledged += found.acknowledged
        wrong += bool(found.wrong)
        tell(f"SIGKILL at random moments, from {given.seed + begin}", found, began)
    row("SIGKILL at random moments", deaths, acknowledged, wrong, f"{time.monotonic() - began:.0f}")
    return bool(wrong)


def calls(_given: argparse.Namespace) -> bool:
    """Every write-like call of one life in which every kind of step comes, from the making of the store on."""
    began = time.monotonic()
    found = kill_at_every_call(EVERY_KIND)
    tell("SIGKILL before every call that writes", found, began)
    return bool(found.wrong)


def traced(_given: argparse.Namespace) -> bool:
    """Every write-like call of the system, those within a commit of SQLite too, by the system's tracer."""
    for kinds in TRACED:
        began = time.monotonic()
        try:
            found = kill_at_every_system_call(kinds)
        except Untraceable as reason:
            sys.stdout.write(f"STRACE IS NOT THERE, so no death within a commit of SQLite was tried: {reason}\n")
            return False
        tell(f"SIGKILL at every call of the system that writes: {kinds[-1]}", found, began)
        if found.wrong:
            return True
    return False


def power(given: argparse.Namespace) -> bool:
    """The same life, and every disk that a power loss in it may leave."""
    began = time.monotonic()
    found = lose_power(recorded(EVERY_KIND), seed=given.seed)
    tell("disks that a power loss may leave", found, began)
    return bool(found.wrong)


def bugs(given: argparse.Namespace) -> bool:
    """Every seeded fault, and what showed it after how many deaths."""
    began, missed = time.monotonic(), 0
    for name, bug in BUGS.items():
        found = _sought(name, given.seed)
        missed += not found.wrong
        row(
            f"seeded, by {bug.by}: {bug.said}",
            found.deaths,
            found.acknowledged,
            "found" if found.wrong else "MISSED",
            "",
        )
    row("seeded faults found", f"{len(BUGS) - missed} of {len(BUGS)}", "", "", f"{time.monotonic() - began:.0f}")
    return bool(missed)


def _sought(name: str, seed: int) -> Found:
    bug = BUGS[name]
    if bug.by == "power":
        return lose_power(recorded(bug.kinds, bug=name), seed=seed)
    if bug.by == "calls":
        return kill_at_every_call(bug.kinds, calm=len(bug.kinds) - 1, bug=name)
    try:
        return kill_at_every_system_call(bug.kinds, calls=("pwrite64",), bug=name)
    except Untraceable as reason:
        sys.stdout.write(f"STRACE IS NOT THERE, so this fault cannot show: {reason}\n")
        return Found(0, 0, ())


PARTS: Final[dict[str, Callable[[argparse.Namespace], bool]]] = {
    "kills": kills, "calls": calls, "traced": traced, "power": power, "bugs": bugs,
}  # fmt: skip


def tell(what: str, found: Found, began: float) -> None:
    """Print what came of a part, and what was wrong."""
    row(what, found.deaths, found.acknowledged, len(found.wrong), f"{time.monotonic() - began:.0f}")
    sys.stdout.writelines(f"    {one}\n" for one in found.wrong)


def row(*cells: object) -> None:
    """Print a row of the table."""
    sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
