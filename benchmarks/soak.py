"""Memory, files and threads during hours of adapting, predicting, rolling back and deleting. Target: constant.

    python benchmarks/soak.py [--minutes 120] [--readings 12]

One caller sends the mix of requests to a service with its normal configuration, over a few clients in turn. The usage
of the service and its decoder processes is sampled regularly; the last third of the samples is compared with the
middle third.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.figures import markdown, percentile
from benchmarks.labelled_pngs import Draw, draw, generated
from benchmarks.running_service import ServiceOptions, add_options, chosen_options, serving
from service.client import AdaptOptions, Client

CLIENTS: Final = 4
PREDICTIONS: Final = 8
KEPT_ROUNDS: Final = 25
"""After so many rounds a client is deleted, and made again by the next one."""

MEMORY_MIB: Final = 16.0
HANDLES: Final = 8.0
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """Resource usage of the service at one time.

    Attributes:
        passed_s: since the first request.
        requests: answered so far.
        memory_mib: resident, of the process and the processes that it started.
        descriptors: open in the process.
        threads: of the process.
    """

    passed_s: float
    requests: int
    memory_mib: float
    descriptors: int
    threads: int


def main() -> None:
    """Run and print the table; fail if usage grew."""
    arguments = parsed()
    print(f"load {os.getloadavg()[0]:.2f} before the run")
    readings = soak(chosen_options(arguments), 60 * arguments.minutes, arguments.readings)
    print(table(readings))
    grown = growth(readings)
    print(
        f"\nthe last third beside the one before: {grown[0]:+.1f} MiB, {grown[1]:+g} descriptors, {grown[2]:+g} threads"
    )
    if not flat(readings):
        sys.exit(f"error: not flat; allowed are {MEMORY_MIB:g} MiB and {HANDLES:g} descriptors or threads")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="how long (default: 120)")
    parser.add_argument("--readings", type=int, default=12, help="rows of the table (default: 12)")
    add_options(parser)
    return parser.parse_args()


def soak(options: ServiceOptions, seconds: float, count: int) -> list[Reading]:
    """Send the mix of requests and return about `count` samples at equal intervals."""
    task = draw(generated(2, 8), np.random.default_rng(0), 2, 4)
    readings: list[Reading] = []
    requests = rounds = 0
    with serving(options) as service, Client(service.url) as anole:
        began = time.monotonic()
        while len(readings) < count:
            requests += one_round(anole, rounds, task)
            rounds += 1
            passed_s = time.monotonic() - began
            if passed_s >= seconds * (len(readings) + 1) / count:
                readings.append(read(service.pid, passed_s, requests))
    return readings


def one_round(anole: Client, number: int, task: Draw) -> int:
    """Requests of one client: two versions, predictions, a rollback, sometimes a deletion; return their number."""
    client = f"line-{number % CLIENTS}"
    images = [content for contents in task.queries.values() for content in contents]
    calls: list[Callable[[], object]] = [
        lambda: anole.adapt(client, task.support, AdaptOptions(mode="replace", publish="always", steps=2)),
        lambda: anole.adapt(client, task.support, AdaptOptions(mode="extend", publish="always", steps=1)),
        *[lambda: anole.predict(client, images[:2])] * PREDICTIONS,
        lambda: anole.rollback(client),
        lambda: anole.versions(client),
    ]
    if number // CLIENTS % KEPT_ROUNDS == KEPT_ROUNDS - 1:
        calls.append(lambda: anole.delete(client))
    for call in calls:
        call()
    return len(calls)


def read(pid: int, passed_s: float, requests: int) -> Reading:
    """Current resource usage of the process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (str(pid), *children))
    return Reading(
        passed_s=passed_s,
        requests=requests,
        memory_mib=pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE,
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
    )


def growth(readings: Sequence[Reading]) -> tuple[float, float, float]:
    """MiB, descriptors and threads: the median of the last third less that of the third before."""
    third = max(1, len(readings) // 3)
    last, before = readings[-third:], readings[-2 * third : -third]

    def more(value: Callable[[Reading], float]) -> float:
        return percentile([value(one) for one in last], 0.5) - percentile([value(one) for one in before], 0.5)

    return more(lambda one: one.memory_mib), more(lambda one: one.descriptors), more(lambda one: one.threads)


def flat(readings: Sequence[Reading]) -> bool:
    """Whether none of the three grew significantly."""
    memory, descriptors, threads = growth(readings)
    return memory <= MEMORY_MIB and descriptors <= HANDLES and threads <= HANDLES


def table(readings: Sequence[Reading]) -> str:
    """Format the samples as a table."""
    rows = [
        (
            f"{one.passed_s / 60:.1f}",
            f"{one.requests:,}",
            f"{one.memory_mib:.1f}",
            str(one.descriptors),
            str(one.threads),
        )
        for one in readings
    ]
    return markdown(("minutes", "requests", "memory MiB", "descriptors", "threads"), rows)


if __name__ == "__main__":
    main()
