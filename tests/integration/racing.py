"""Many publishes of one client at once, from several processes, and what any correct order of them must satisfy.

    python -m tests.integration.racing [--processes 2] [--threads 64] [--publishes 2048] [--shared]

Every publish, and every read of the alias between them, is recorded with the moments it began and ended on the clock
that all processes of a machine share. The history is right if numbers have no gap, the log tells the same story, and no
operation contradicts the order in which others had ended before it began: then it is one that a single thread could
have made (linearizable; Herlihy and Wing, ACM TOPLAS 12(3), 1990, for a counter that only grows).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from service.domain.version import LIVE
from service.errors import StoreUnavailable, UnknownAlias, UnknownClient
from service.store.open_store import StoreLocation, open_store
from service.store.version_store import VersionStore
from tests.integration import store_child
from tests.integration.store_child import CLIENT, publish
from tests.real_parts import CREDENTIALS, ObjectServer, PostgresServer

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([store_child.__name__])
READ_EVERY = 4


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that was done: a publish that made a number, or a read that saw one (0: none yet)."""

    kind: str
    number: int
    began_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Race:
    """What took part, what it did, and how often a publish was turned away and tried again."""

    operations: tuple[Operation, ...]
    turned_away: int
    seconds: float


def race(place: StoreLocation, *, processes: int, threads: int, publishes: int) -> Race:
    """Let so many processes of so many threads each make their share of the publishes."""
    open_store(place).close()
    began = time.monotonic()
    running = []
    for i in range(processes):
        ours, theirs = PROCESSES.Pipe(duplex=False)
        share = publishes // processes + (i < publishes % processes)
        process = PROCESSES.Process(target=_take_part, args=(place, threads, share, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    operations: list[Operation] = []
    turned_away = 0
    for process, pipe in running:
        found, refusals = pipe.recv()
        operations += found
        turned_away += refusals
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"a process of the race ended with {process.exitcode}")
        pipe.close()
        process.close()
    return Race(tuple(operations), turned_away, time.monotonic() - began)


def _take_part(place: StoreLocation, threads: int, share: int, tell: Connection) -> None:
    with open_store(place) as store, ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda i: _publish(store, i), range(share)))
    tell.send(([operation for made, _ in done for operation in made], sum(refusals for _, refusals in done)))
    tell.close()


def _publish(store: VersionStore, i: int) -> tuple[list[Operation], int]:
    made: list[Operation] = []
    if i % READ_EVERY == 0:
        began = time.monotonic_ns()
        made.append(Operation("read", _seen(store), began, time.monotonic_ns()))
    refusals = 0
    while True:
        began = time.monotonic_ns()
        try:
            number, _ = publish(store, i)
        except StoreUnavailable as error:
            if "try again" not in str(error):
                raise
            refusals += 1
            continue
        made.append(Operation("publish", number, began, time.monotonic_ns()))
        return made, refusals


def _seen(store: VersionStore) -> int:
    try:
        return store.catalog.alias(CLIENT, LIVE).revision
    except (UnknownClient, UnknownAlias):
        return 0


def contradictions(operations: Sequence[Operation]) -> list[str]:
    """What no order of the operations could explain; empty for a linearizable history."""
    published = sorted((one for one in operations if one.kind == "publish"), key=lambda one: one.number)
    numbers = [one.number for one in published]
    found = [] if numbers == list(range(1, len(numbers) + 1)) else [f"numbers with gaps or repeated: {numbers[:20]} …"]
    by_end = sorted(published, key=lambda one: one.ended_ns)
    by_begin = sorted(published, key=lambda one: one.began_ns)
    ended = begun = highest_ended = highest_begun = 0
    for one in sorted(operations, key=lambda one: one.began_ns):
        while ended < len(by_end) and by_end[ended].ended_ns < one.began_ns:
            highest_ended = max(highest_ended, by_end[ended].number)
            ended += 1
        if one.number < highest_ended or (one.kind == "publish" and one.number == highest_ended):
            found.append(f"a {one.kind} of {one.number} began after the publish of {highest_ended} had ended")
    for one in sorted((one for one in operations if one.kind == "read"), key=lambda one: one.ended_ns):
        while begun < len(by_begin) and by_begin[begun].began_ns < one.ended_ns:
            highest_begun = max(highest_begun, by_begin[begun].number)
            begun += 1
        if one.number > highest_begun:
            found.append(f"a read saw {one.number}, whose publish had not begun")
    return found


def log_contradictions(store: VersionStore, publishes: int) -> list[str]:
    """What the alias's log and the versions say that so many publishes in a row could not have left."""
    expected = list(range(1, publishes + 1))
    moves = store.catalog.history(CLIENT)
    said = {
        "revisions": [move.revision for move in moves],
        "versions that went live": [move.version for move in moves],
        "versions": [version.number for version in store.catalog.versions(CLIENT)],
    }
    return [f"the log's {name} are not 1 to {publishes}" for name, numbers in said.items() if numbers != expected]


def main() -> int:
    """Race and print what came of it; 1 if something cannot be explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 2), ("threads", 64), ("publishes", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--shared", action="store_true", help="on a PostgreSQL and an object server started for it")
    given = parser.parse_args()
    with a_place(shared=given.shared) as place:
        done = race(place, processes=given.processes, threads=given.threads, publishes=given.publishes)
        with open_store(place) as store:
            wrong = [*contradictions(done.operations), *log_contradictions(store, given.publishes)]
            whole = store.check().whole
    tell(f"{given.processes} x {given.threads}", done, len(wrong), whole=whole)
    sys.stdout.writelines(f"{one}\n" for one in wrong[:10])
    return int(bool(wrong) or not whole)


@contextmanager
def a_place(*, shared: bool) -> Iterator[StoreLocation]:
    """An empty store, in a folder or on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="anole-race-") as folder, ExitStack() as stop:
        if not shared:
            yield StoreLocation(Path(folder))
            return
        os.environ.update(CREDENTIALS)
        objects, postgres = ObjectServer(), PostgresServer()
        stop.callback(objects.remove)
        stop.callback(postgres.remove)
        yield StoreLocation(Path(folder), postgres.url(postgres.new_database()), objects.url(objects.new_bucket()))


def tell(who: str, done: Race, wrong: int, *, whole: bool) -> None:
    """Print one row of figures under its heads."""
    waits = [(one.ended_ns - one.began_ns) / 1e6 for one in done.operations if one.kind == "publish"]
    cells = {
        "processes x threads": who,
        "publishes": len(waits),
        "reads between": sum(one.kind == "read" for one in done.operations),
        "turned away, tried again": done.turned_away,
        "contradictions": wrong,
        "whole": "yes" if whole else "NO",
        "seconds": f"{done.seconds:.1f}",
        "ms a publish, p50": f"{statistics.median(waits):.0f}",
    }
    for row in (cells, ["---"] * len(cells), cells.values()):
        sys.stdout.write("| " + " | ".join(map(str, row)) + " |\n")


if __name__ == "__main__":
    sys.exit(main())
