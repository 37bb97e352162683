"""Behaviour under overload. Target: at ten times the load that the service can handle, accepted requests take
about as long as under high load, and the others are rejected at once.

    python benchmarks/predict_overload.py [--data-root FOLDER] [--times 10] [--seconds 10] [--rounds 3]

The peak is the throughput of four connections that each send the next request after a response. Then requests arrive
at random (a Poisson process) regardless of earlier responses: at 70 % of the peak, and at ten times the peak. Latency
counts from the scheduled time of a request. Each request has several images, so that the driver on the same machine can
generate ten times the load; the table shows the driver's own delay.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, percentile, script
from benchmarks.fixtures import N_SHOT, N_WAY, draw, steel_or_generated
from benchmarks.http_load import Connection, as_form, connect, exchange, publish_version
from benchmarks.running_service import RunningService, add_options, chosen_options, serving

HIGH_LOAD: Final = 0.7
CLOSED_CONNECTIONS: Final = 4
"""Connections at the peak: with eight images each they fill the service's limit, and none is rejected."""

MAX_CONNECTIONS: Final = 3000
PEAK, HIGH, OVERLOAD = "peak, closed loop", "open loop, 70 % of the peak", "open loop, {times:g} times the peak"


@dataclass
class Phase:
    """Measurements of one phase over all rounds; seconds count from the scheduled time of a request.

    Attributes:
        accepted: seconds to a response 200.
        refused: seconds to a response 503.
        broken: other responses, and broken connections.
        late: delay of the driver.
        passed_s: elapsed time.
        driver_s: processor time of the driver.
        service_s: processor time of the service.
    """

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    broken: int = 0
    late: list[float] = field(default_factory=list)
    passed_s: float = 0.0
    driver_s: float = 0.0
    service_s: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        """Count a response."""
        if status == httpx.codes.OK:
            self.accepted.append(seconds)
        elif status == httpx.codes.SERVICE_UNAVAILABLE:
            self.refused.append(seconds)
        else:
            self.broken += 1

    @contextmanager
    def timed(self, service: RunningService) -> Iterator[None]:
        """Add elapsed and processor time of the block."""
        began, driver_s, service_s = time.perf_counter(), time.process_time(), service.cpu_seconds()
        yield
        self.passed_s += time.perf_counter() - began
        self.driver_s += time.process_time() - driver_s
        self.service_s += service.cpu_seconds() - service_s


class ConnectionPool:
    """Connections to a service; opens a new one if none is idle."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Connection] = []
        self._open = 0

    async def send(self, request: bytes) -> int:
        """Send a request; return the status of the response, or 0 if the connection broke."""
        try:
            connection = self._idle.pop() if self._idle else await self._new()
        except OSError:
            return 0
        try:
            status, _ = await exchange(connection, request)
        except (OSError, asyncio.IncompleteReadError):
            self._open -= 1
            connection[1].close()
            return 0
        self._idle.append(connection)
        return status

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()

    async def _new(self) -> Connection:
        if self._open >= MAX_CONNECTIONS:
            raise OSError(f"{self._open} connections are open")
        self._open += 1
        return await connect(self._url)


@script
def main() -> None:
    """Serve a version, find the peak, send at two rates alternately, and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    machine = options.machine()
    images, generator = steel_or_generated(arguments.data_root), np.random.default_rng(arguments.seed)
    task = draw(images, generator, N_WAY, N_SHOT, max_queries=10)
    phases = {name: Phase() for name in (PEAK, HIGH, OVERLOAD)}
    with serving(options) as service:
        publish_version(service.url, task.support)
        requests = forms(service.url, task.query_images(), arguments.images)
        asyncio.run(closed_loop(service, requests, 2.0, Phase()))
        for _ in range(arguments.rounds):
            asyncio.run(closed_loop(service, requests, arguments.seconds, phases[PEAK]))
            peak = len(phases[PEAK].accepted) / phases[PEAK].passed_s
            for name, times in ((HIGH, HIGH_LOAD), (OVERLOAD, arguments.times)):
                moments = arrivals(peak * times, arguments.seconds, generator)
                asyncio.run(open_loop(service, requests, moments, phases[name]))
    record = {
        "data": images.name,
        "machine": machine,
        "rounds": arguments.rounds,
        "images": arguments.images,
        "seconds": arguments.seconds,
        "rows": [{"phase": name.format(times=arguments.times), **figures(phase)} for name, phase in phases.items()],
    }
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--times", 10.0, "overload as a multiple of the peak")
    parser.option("--images", 8, "images per request")
    parser.option("--seconds", 8.0, "duration of a phase")
    parser.option("--rounds", 3, "rounds in which the phases alternate")
    parser.option("--seed", 0, "seed of images and arrivals")
    parser.json()
    add_options(parser)
    return parser.parse_args()


def forms(url: str, queries: Sequence[bytes], images: int) -> list[bytes]:
    """Requests with so many images each, as the Python client sends them."""
    return [as_form(url, queries[first : first + images]) for first in range(0, len(queries) - images + 1, images)]


def arrivals(rate: float, seconds: float, generator: np.random.Generator) -> list[float]:
    """Moments of a Poisson process with `rate` requests per second."""
    times = np.cumsum(generator.exponential(1 / rate, size=int(rate * seconds * 1.5) + 10))
    moments: list[float] = times[times < seconds].tolist()
    return moments


async def closed_loop(service: RunningService, requests: Sequence[bytes], seconds: float, phase: Phase) -> None:
    """A few connections with one request in flight each."""
    pool, turn = ConnectionPool(service.url), itertools.cycle(requests)
    until = time.perf_counter() + seconds

    async def one_connection() -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            status = await pool.send(next(turn))
            phase.add(status, time.perf_counter() - began)

    with phase.timed(service):
        await asyncio.gather(*(one_connection() for _ in range(CLOSED_CONNECTIONS)))
    pool.close()


async def open_loop(service: RunningService, requests: Sequence[bytes], moments: Sequence[float], phase: Phase) -> None:
    """Send at the given moments, regardless of earlier responses."""
    pool, turn, running = ConnectionPool(service.url), itertools.cycle(requests), set[asyncio.Task[None]]()

    async def one_request(moment: float, request: bytes) -> None:
        phase.late.append(time.perf_counter() - moment)
        status = await pool.send(request)
        phase.add(status, time.perf_counter() - moment)

    with phase.timed(service):
        began = time.perf_counter()
        for moment in moments:
            ahead = began + moment - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            elif len(running) % 16 == 0:
                await asyncio.sleep(0)
            task = asyncio.ensure_future(one_request(began + moment, next(turn)))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    pool.close()


def figures(phase: Phase) -> dict[str, Any]:
    """Results of a phase as JSON data."""

    def quantile(seconds: Sequence[float], share: float) -> float | None:
        return percentile(seconds, share) if seconds else None

    return {
        "sent_per_s": (len(phase.accepted) + len(phase.refused) + phase.broken) / phase.passed_s,
        "accepted_per_s": len(phase.accepted) / phase.passed_s,
        "accepted_p50_s": quantile(phase.accepted, 0.5),
        "accepted_p99_s": quantile(phase.accepted, 0.99),
        "refused": len(phase.refused),
        "refused_p99_s": quantile(phase.refused, 0.99),
        "broken": phase.broken,
        "late_p99_s": quantile(phase.late, 0.99),
        "driver_share": phase.driver_s / phase.passed_s,
        "service_share": phase.service_s / phase.passed_s,
    }


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    columns = (
        "phase", "sent/s", "accepted/s", "p50 ms", "p99 ms", "rejected", "their p99 ms", "broken", "driver late p99 ms",
        "driver's core", "service's core",
    )  # fmt: skip

    def ms(seconds: float | None) -> str:
        return milliseconds([] if seconds is None else [seconds], decimals=1)

    rows = [
        (
            row["phase"],
            f"{row['sent_per_s']:.0f}",
            f"{row['accepted_per_s']:.0f}",
            ms(row["accepted_p50_s"]),
            ms(row["accepted_p99_s"]),
            str(row["refused"]),
            ms(row["refused_p99_s"]),
            str(row["broken"]),
            ms(row["late_p99_s"]),
            f"{100 * row['driver_share']:.0f} %",
            f"{100 * row['service_share']:.0f} %",
        )
        for row in record["rows"]
    ]
    peak, high, over = record["rows"]
    return "\n".join([
        f"{record['data']}; {record['images']} images per request",
        machine_line(record["machine"]),
        f"{record['rounds']} alternating rounds of {record['seconds']:g} s per phase; the driver is another process",
        "",
        markdown(columns, rows),
        "",
        f"accepted under overload: {over['accepted_per_s'] / peak['accepted_per_s']:.2f} of the peak,",
        f"their p99 is {over['accepted_p99_s'] / high['accepted_p99_s']:.2f} times that at 70 %",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
