"""Races many publishes of one client in several processes, and checks that the history is linearizable.

    python -m tests.integration.racing [--processes 2] [--threads 64] [--publishes 2048] [--shared]

Each publish, and each read of the alias, is recorded with the times when it began and ended, on the clock that all
processes of a machine share. The history is correct if the numbers have no gaps, the alias log agrees, and every
operation reflects all operations that ended before it began: then a single thread could have produced it (see Herlihy
and Wing, "Linearizability", ACM TOPLAS 12(3), 1990; here for a counter that only grows).
"""

from __future__ import annotations

import argparse
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
from tests.integration.store_child import CLIENT, publish
from tests.processes import PROCESSES
from tests.real_parts import CREDENTIALS, ObjectServer, PostgresServer

READ_EVERY = 4


@dataclass(frozen=True, slots=True)
class Operation:
    """A publish that made a version number, or a read that returned one (0: none yet)."""

    kind: str
    number: int
    began_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Race:
    """The operations of a race, the number of rejected and repeated publishes, and the duration."""

    operations: tuple[Operation, ...]
    rejected: int
    seconds: float


def race(location: StoreLocation, *, processes: int, threads: int, publishes: int) -> Race:
    """Divide the publishes between processes, each with that many threads."""
    open_store(location).close()
    began = time.monotonic()
    running = []
    for i in range(processes):
        receiving, sending = PROCESSES.Pipe(duplex=False)
        share = publishes // processes + (i < publishes % processes)
        process = PROCESSES.Process(target=_publish_share, args=(location, threads, share, sending))
        process.start()
        sending.close()
        running.append((process, receiving))
    operations: list[Operation] = []
    rejected = 0
    for process, pipe in running:
        found, repeats = pipe.recv()
        operations += found
        rejected += repeats
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"a process of the race ended with {process.exitcode}")
        pipe.close()
        process.close()
    return Race(tuple(operations), rejected, time.monotonic() - began)


def _publish_share(location: StoreLocation, threads: int, share: int, results: Connection) -> None:
    with open_store(location) as store, ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda i: _publish(store, i), range(share)))
    results.send(([operation for made, _ in done for operation in made], sum(rejected for _, rejected in done)))
    results.close()


def _publish(store: VersionStore, i: int) -> tuple[list[Operation], int]:
    made: list[Operation] = []
    if i % READ_EVERY == 0:
        began = time.monotonic_ns()
        made.append(Operation("read", _current_revision(store), began, time.monotonic_ns()))
    rejected = 0
    while True:
        began = time.monotonic_ns()
        try:
            number, _ = publish(store, i)
        except StoreUnavailable as error:
            if "try again" not in str(error):
                raise
            rejected += 1
            continue
        made.append(Operation("publish", number, began, time.monotonic_ns()))
        return made, rejected


def _current_revision(store: VersionStore) -> int:
    try:
        return store.catalog.alias(CLIENT, LIVE).revision
    except (UnknownClient, UnknownAlias):
        return 0


def contradictions(operations: Sequence[Operation]) -> list[str]:
    """Return why the history is not linearizable; empty if it is."""
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
            found.append(f"a read returned {one.number}, whose publish had not begun")
    return found


def log_contradictions(store: VersionStore, publishes: int) -> list[str]:
    """Return how the alias log and the versions differ from those of that many publishes in sequence."""
    expected = list(range(1, publishes + 1))
    moves = store.catalog.history(CLIENT)
    said = {
        "revisions": [move.revision for move in moves],
        "versions that went live": [move.version for move in moves],
        "versions": [version.number for version in store.catalog.versions(CLIENT)],
    }
    return [f"the log's {name} are not 1 to {publishes}" for name, numbers in said.items() if numbers != expected]


def main() -> int:
    """Run a race and print the result; exit with 1 if the history is not linearizable or the store is damaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 2), ("threads", 64), ("publishes", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--shared", action="store_true", help="use a PostgreSQL server and an object server, started for the race"
    )
    arguments = parser.parse_args()
    with temporary_store(shared=arguments.shared) as location:
        done = race(location, processes=arguments.processes, threads=arguments.threads, publishes=arguments.publishes)
        with open_store(location) as store:
            wrong = [*contradictions(done.operations), *log_contradictions(store, arguments.publishes)]
            whole = store.check().whole
    print_result(f"{arguments.processes} x {arguments.threads}", done, len(wrong), whole=whole)
    sys.stdout.writelines(f"{one}\n" for one in wrong[:10])
    return int(bool(wrong) or not whole)


@contextmanager
def temporary_store(*, shared: bool) -> Iterator[StoreLocation]:
    """Create an empty store, in a folder or on new servers."""
    with tempfile.TemporaryDirectory(prefix="anole-race-") as folder, ExitStack() as stop:
        if not shared:
            yield StoreLocation(Path(folder))
            return
        os.environ.update(CREDENTIALS)
        objects, postgres = ObjectServer(), PostgresServer()
        stop.callback(objects.remove)
        stop.callback(postgres.remove)
        yield StoreLocation(Path(folder), postgres.url(postgres.new_database()), objects.url(objects.new_bucket()))


def print_result(title: str, result: Race, problems: int, *, whole: bool) -> None:
    """Print the figures as a table of one row."""
    waits = [(one.ended_ns - one.began_ns) / 1e6 for one in result.operations if one.kind == "publish"]
    cells = {
        "processes x threads": title,
        "publishes": len(waits),
        "reads between": sum(one.kind == "read" for one in result.operations),
        "rejected, repeated": result.rejected,
        "contradictions": problems,
        "whole": "yes" if whole else "NO",
        "seconds": f"{result.seconds:.1f}",
        "ms a publish, p50": f"{statistics.median(waits):.0f}",
    }
    for row in (cells, ["---"] * len(cells), cells.values()):
        sys.stdout.write("| " + " | ".join(map(str, row)) + " |\n")


if __name__ == "__main__":
    sys.exit(main())
