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

from benchmarks.figures import Parser, markdown, percentile, script
from benchmarks.fixtures import Draw, draw, generated
from benchmarks.measuring import MIB, resident_bytes
from benchmarks.running_service import ServiceOptions, add_options, chosen_options, serving
from service.client import AdaptOptions, Client

CLIENTS: Final = 4
PREDICTIONS: Final = 8
ROUNDS_BEFORE_DELETION: Final = 25
"""A client is deleted after so many of its rounds; its next round creates it again."""

ALLOWED_MIB: Final = 16.0
ALLOWED_HANDLES: Final = 8.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Resource usage of the service at one moment.

    Attributes:
        passed_s: seconds since the first request.
        requests: requests answered so far.
        memory_mib: resident memory of the process and its child processes.
        descriptors: open file descriptors of the process.
        threads: threads of the process.
    """

    passed_s: float
    requests: int
    memory_mib: float
    descriptors: int
    threads: int


@script
def main() -> None:
    """Run, print the table, and exit with an error if the usage grew."""
    arguments = parse_arguments()
    print(f"load {os.getloadavg()[0]:.2f} before the run")
    readings = soak(chosen_options(arguments), 60 * arguments.minutes, arguments.readings)
    print(table(readings))
    memory, descriptors, threads = growth(readings)
    print(f"\nlast third minus middle third: {memory:+.1f} MiB, {descriptors:+g} descriptors, {threads:+g} threads")
    if not is_constant(readings):
        sys.exit(f"error: usage grew; allowed are {ALLOWED_MIB:g} MiB and {ALLOWED_HANDLES:g} descriptors or threads")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--minutes", 120.0, "duration")
    parser.option("--readings", 12, "rows of the table")
    add_options(parser)
    return parser.parse_args()


def soak(options: ServiceOptions, seconds: float, count: int) -> list[Reading]:
    """Send the mix of requests for `seconds`; return `count` readings at equal intervals."""
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
    """One client's round: two versions, predictions, a rollback, and at times its deletion; return the requests."""
    client, images = f"line-{number % CLIENTS}", task.query_images()
    calls: list[Callable[[], object]] = [
        lambda: anole.adapt(client, task.support, AdaptOptions(mode="replace", publish="always", steps=2)),
        lambda: anole.adapt(client, task.support, AdaptOptions(mode="extend", publish="always", steps=1)),
        *[lambda: anole.predict(client, images[:2])] * PREDICTIONS,
        lambda: anole.rollback(client),
        lambda: anole.versions(client),
    ]
    if number // CLIENTS % ROUNDS_BEFORE_DELETION == ROUNDS_BEFORE_DELETION - 1:
        calls.append(lambda: anole.delete(client))
    for call in calls:
        call()
    return len(calls)


def read(pid: int, passed_s: float, requests: int) -> Reading:
    """The present usage."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return Reading(
        passed_s=passed_s,
        requests=requests,
        memory_mib=resident_bytes([pid, *map(int, children)]) / MIB,
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
    )


def growth(readings: Sequence[Reading]) -> tuple[float, float, float]:
    """MiB, descriptors and threads: the median of the last third minus the median of the middle third."""
    third = max(1, len(readings) // 3)
    last, before = readings[-third:], readings[-2 * third : -third]

    def difference(value: Callable[[Reading], float]) -> float:
        return percentile(list(map(value, last)), 0.5) - percentile(list(map(value, before)), 0.5)

    return (
        difference(lambda reading: reading.memory_mib),
        difference(lambda reading: reading.descriptors),
        difference(lambda reading: reading.threads),
    )


def is_constant(readings: Sequence[Reading]) -> bool:
    """Whether nothing grew by more than is allowed."""
    memory, descriptors, threads = growth(readings)
    return memory <= ALLOWED_MIB and descriptors <= ALLOWED_HANDLES and threads <= ALLOWED_HANDLES


def table(readings: Sequence[Reading]) -> str:
    """The readings as text."""
    rows = [
        (
            f"{reading.passed_s / 60:.1f}",
            f"{reading.requests:,}",
            f"{reading.memory_mib:.1f}",
            str(reading.descriptors),
            str(reading.threads),
        )
        for reading in readings
    ]
    return markdown(("minutes", "requests", "memory MiB", "descriptors", "threads"), rows)


if __name__ == "__main__":
    main()
