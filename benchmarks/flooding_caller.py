"""Requests of one caller while another one floods the service. Target: at least 90 % of them get a result.

    python benchmarks/flooding_caller.py [--data-root FOLDER] [--floods 1 4] [--seconds 10] [--rounds 3]

Without keys, an address is a caller as a key is. From 127.0.0.2, some connections send batches of 64 pictures of
640 x 480, each the next one right after a response. From 127.0.0.1, single pictures arrive at fixed intervals,
regardless of earlier responses. A result counts if it comes in time. The rate and the number of requests of a caller
are not limited, so that only the sharing of places and of processor time protects the other one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, percentile, script
from benchmarks.fixtures import N_SHOT, N_WAY, draw, steel_or_generated
from benchmarks.http_load import as_form, connect, exchange, publish_version
from benchmarks.running_service import add_options, chosen_options, serving

FLOODER: Final = "127.0.0.2"
BATCH: Final = 64
TARGET: Final = 0.9


@dataclass(frozen=True, slots=True)
class Requests:
    """Prepared requests to the service at `url`: with a single picture each, and with a batch."""

    url: str
    singles: Sequence[bytes]
    batch: bytes


@dataclass
class Phase:
    """What happened with so many flooding connections, over all rounds.

    Attributes:
        seconds: time to each result of the single pictures.
        statuses: number of responses to them, by status.
        batches: number of responses to the flood, by status.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    batches: Counter[int] = field(default_factory=Counter)

    def in_time(self, limit_s: float) -> float:
        """The share of the single pictures with a result within so many seconds."""
        return sum(each <= limit_s for each in self.seconds) / self.statuses.total()


@script
def main() -> None:
    """Serve a version, send without and with the flood alternately, and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    machine = options.machine()
    images, generator = steel_or_generated(arguments.data_root), np.random.default_rng(arguments.seed)
    task = draw(images, generator, N_WAY, N_SHOT, max_queries=10)
    phases = {count: Phase() for count in (0, *arguments.floods)}
    with serving(options) as service:
        publish_version(service.url, task.support)
        requests = Requests(
            service.url,
            [as_form(service.url, [image]) for image in task.query_images()],
            as_form(service.url, [photograph(generator)] * BATCH),
        )
        asyncio.run(send(requests, 1, 2.0, arguments.interval, Phase()))
        for _ in range(arguments.rounds):
            for count, phase in phases.items():
                asyncio.run(send(requests, count, arguments.seconds, arguments.interval, phase))
    record = {
        "data": images.name,
        "machine": machine,
        "rounds": arguments.rounds,
        "interval_s": arguments.interval,
        "within_s": arguments.within,
        "rows": [{"flood": count, **figures(phase, arguments.within)} for count, phase in phases.items()],
    }
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--floods", [1, 4], "numbers of connections that flood", least=1)
    parser.option("--interval", 0.1, "seconds between two single pictures")
    parser.option("--within", 2.0, "seconds in which a result counts")
    parser.option("--seconds", 10.0, "duration of a phase")
    parser.option("--rounds", 3, "rounds in which the phases alternate", least=1)
    parser.option("--seed", 0, "seed of the images")
    parser.json()
    add_options(parser)
    return parser.parse_args()


def photograph(generator: np.random.Generator) -> bytes:
    """A JPEG of 640 x 480 as a camera sends it."""
    encoded = io.BytesIO()
    Image.fromarray(generator.integers(90, 160, (480, 640), dtype=np.uint8)).save(encoded, "JPEG", quality=80)
    return encoded.getvalue()


async def send(requests: Requests, floods: int, seconds: float, interval_s: float, phase: Phase) -> None:
    """Flood with so many connections, and send single pictures meanwhile."""
    until = time.perf_counter() + seconds

    async def flood() -> None:
        connection = await connect(requests.url, source=FLOODER)
        while time.perf_counter() < until:
            status, _ = await exchange(connection, requests.batch)
            phase.batches[status] += 1
        connection[1].close()

    async def single(request: bytes) -> None:
        began = time.perf_counter()
        connection = await connect(requests.url)
        status, _ = await exchange(connection, request)
        connection[1].close()
        phase.statuses[status] += 1
        if status == httpx.codes.OK:
            phase.seconds.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(floods):
            tasks.create_task(flood())
        turn = itertools.cycle(requests.singles)
        while time.perf_counter() < until:
            tasks.create_task(single(next(turn)))
            await asyncio.sleep(interval_s)


def figures(phase: Phase, limit_s: float) -> dict[str, Any]:
    """Results of a phase as JSON data."""
    return {
        "sent": phase.statuses.total(),
        "results": len(phase.seconds),
        "in_time": phase.in_time(limit_s),
        "p50_s": percentile(phase.seconds, 0.5),
        "p99_s": percentile(phase.seconds, 0.99),
        "batches": phase.batches[httpx.codes.OK],
        "batches_rejected": phase.batches.total() - phase.batches[httpx.codes.OK],
    }


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    columns = (
        "flooding connections",
        "single pictures",
        "results",
        "in time",
        "p50 ms",
        "p99 ms",
        "batches",
        "rejected",
    )
    rows = [
        (
            str(row["flood"]),
            str(row["sent"]),
            str(row["results"]),
            f"{100 * row['in_time']:.1f} %",
            milliseconds([row["p50_s"]]),
            milliseconds([row["p99_s"]]),
            str(row["batches"]),
            str(row["batches_rejected"]),
        )
        for row in record["rows"]
    ]
    worst = min(row["in_time"] for row in record["rows"][1:])
    return "\n".join([
        f"{record['data']}; a single picture every {record['interval_s']:g} s, in time within {record['within_s']:g} s",
        machine_line(record["machine"]),
        "",
        markdown(columns, rows),
        "",
        f"in time beside the flood: {100 * worst:.1f} %, target: {100 * TARGET:.0f} %",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
