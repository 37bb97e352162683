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
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks.figures import machine, machine_line, markdown, percentile
from benchmarks.labelled_pngs import draw, steel_or_generated
from benchmarks.predict_latency import on_the_wire
from benchmarks.running_service import RunningService, add_options, chosen_options, serving
from models.errors import AnoleError
from service.client import AdaptOptions, Client
from service.client import requests as client_requests

CLIENT: Final = "bench"
N_WAY, N_SHOT, GENERATED_IMAGES = 5, 10, 30
BUSY: Final = 0.7
CLOSED: Final = 4
"""Connections at the peak: with eight images each they fill the places that there are, and none is refused."""

MOST_CONNECTIONS: Final = 3000
PEAK, BUSY_DAY, OVERLOAD = "peak, closed loop", "open loop, 70 % of the peak", "open loop, {times:g} times the peak"


@dataclass
class Seen:
    """Responses, in seconds from the scheduled time of a request.

    Attributes:
        accepted: latencies of responses 200.
        refused: latencies of responses 503.
        broken: number of other responses and broken connections.
        late: delays of the driver.
        passed_s: duration of all phases.
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


class Lines:
    """Connection pool that opens a new connection if none is idle."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = address.hostname, address.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = 0

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status of the response; 0 if the connection broke."""
        try:
            reader, writer = self._idle.pop() if self._idle else await self._new()
        except OSError:
            return 0
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError):
            self._open -= 1
            writer.close()
            return 0
        self._idle.append((reader, writer))
        return int(head[9:12])

    def close(self) -> None:
        """Close idle connections."""
        for _, writer in self._idle:
            writer.close()

    async def _new(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._open >= MOST_CONNECTIONS:
            raise OSError("too many connections are open")
        self._open += 1
        return await asyncio.open_connection(*self._address)


def main() -> None:
    """Measure and print the table."""
    arguments = parsed()
    try:
        record = measure(arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None, help="folder with x_sdd.zip (default: generated)")
    parser.add_argument("--times", type=float, default=10.0, help="the peak (default: 10)")
    parser.add_argument("--images", type=int, default=8, help="a request (default: 8)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of one phase (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of images and arrivals (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_options(parser)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve a version, find the peak, then send at two rates alternately."""
    options = chosen_options(arguments)
    found = machine(options)
    images = steel_or_generated(arguments.data_root, N_WAY, GENERATED_IMAGES)
    draws = np.random.default_rng(arguments.seed)
    task = draw(images, draws, N_WAY, N_SHOT, max_queries=10)
    queries = [content for contents in task.queries.values() for content in contents]
    phases = {name: Seen() for name in (PEAK, BUSY_DAY, OVERLOAD)}
    with serving(options) as service:
        with Client(service.url) as anole:
            anole.adapt(CLIENT, task.support, AdaptOptions(mode="replace", publish="always"))
        requests = as_sent(service.url, queries, arguments.images)
        asyncio.run(closed(service, requests, 2.0, Seen()))
        for _ in range(arguments.rounds):
            asyncio.run(closed(service, requests, arguments.seconds, phases[PEAK]))
            peak = len(phases[PEAK].accepted) / phases[PEAK].passed_s
            for name, times in ((BUSY_DAY, BUSY), (OVERLOAD, arguments.times)):
                asyncio.run(opened(service, requests, arrivals(peak * times, arguments.seconds, draws), phases[name]))
    record = {"data": images.name, "machine": found, "rounds": arguments.rounds, "images": arguments.images}
    rows = [{"phase": name.format(times=arguments.times), **figures(seen)} for name, seen in phases.items()]
    return {**record, "seconds": arguments.seconds, "rows": rows}


def as_sent(url: str, queries: Sequence[bytes], images: int) -> list[bytes]:
    """Forms with several images each, as the Python client sends them."""
    pieces = [queries[first : first + images] for first in range(0, len(queries) - images + 1, images)]
    with httpx.Client(base_url=url) as http:
        forms = [client_requests.predict(CLIENT, piece) for piece in pieces]
        return [on_the_wire(http.build_request(form.method, form.path, **form.content)) for form in forms]


def arrivals(rate: float, seconds: float, draws: np.random.Generator) -> list[float]:
    """Arrival times of a Poisson process."""
    times = np.cumsum(draws.exponential(1 / rate, size=int(rate * seconds * 1.5) + 10))
    moments: list[float] = times[times < seconds].tolist()
    return moments


async def closed(service: RunningService, requests: Sequence[bytes], seconds: float, seen: Seen) -> None:
    """Closed loop: a few connections, each with one request in flight."""
    lines, turn = Lines(service.url), itertools.cycle(requests)
    until = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            note(seen, await lines.ask(next(turn)), time.perf_counter() - began)

    with counted(service, seen):
        await asyncio.gather(*(one() for _ in range(CLOSED)))
    lines.close()


async def opened(service: RunningService, requests: Sequence[bytes], moments: Sequence[float], seen: Seen) -> None:
    """Open loop: send at the given times regardless of earlier responses."""
    lines, turn, asked = Lines(service.url), itertools.cycle(requests), set[asyncio.Task[None]]()

    async def one(moment: float, request: bytes) -> None:
        seen.late.append(time.perf_counter() - moment)
        note(seen, await lines.ask(request), time.perf_counter() - moment)

    with counted(service, seen):
        began = time.perf_counter()
        for moment in moments:
            ahead = began + moment - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            elif len(asked) % 16 == 0:
                await asyncio.sleep(0)
            task = asyncio.ensure_future(one(began + moment, next(turn)))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)
    lines.close()


def note(seen: Seen, status: int, seconds: float) -> None:
    """Count an answer."""
    if status in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
        (seen.accepted if status == httpx.codes.OK else seen.refused).append(seconds)
    else:
        seen.broken += 1


class counted:  # noqa: N801 - used as a statement
    """Add the time of the block, and the processor time of both sides."""

    def __init__(self, service: RunningService, seen: Seen) -> None:
        self._service, self._seen = service, seen

    def __enter__(self) -> None:
        self._began, self._own = time.perf_counter(), time.process_time()
        self._theirs = self._service.cpu_seconds() or 0.0

    def __exit__(self, *_: object) -> None:
        self._seen.passed_s += time.perf_counter() - self._began
        self._seen.driver_s += time.process_time() - self._own
        self._seen.service_s += (self._service.cpu_seconds() or 0.0) - self._theirs


def figures(seen: Seen) -> dict[str, Any]:
    """Results over all rounds."""
    return {
        "sent_a_second": (len(seen.accepted) + len(seen.refused) + seen.broken) / seen.passed_s,
        "accepted_a_second": len(seen.accepted) / seen.passed_s,
        **{f"accepted_p{share}_s": quantile(seen.accepted, share) for share in (50, 99)},
        "refused": len(seen.refused),
        "refused_p99_s": quantile(seen.refused, 99),
        "broken": seen.broken,
        "late_p99_s": quantile(seen.late, 99),
        "driver_share": seen.driver_s / seen.passed_s,
        "service_share": seen.service_s / seen.passed_s,
    }


def quantile(seconds: Sequence[float], share: int) -> float | None:
    """Quantile in seconds; None without values."""
    return percentile(seconds, share / 100) if seconds else None


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    columns = (
        "phase", "sent/s", "accepted/s", "p50 ms", "p99 ms", "refused", "their p99 ms", "broken", "driver late p99 ms",
        "driver's core", "service's core",
    )  # fmt: skip
    rows = [tuple(cells(row)) for row in record["rows"]]
    peak, busy, over = record["rows"]
    lines = [
        f"{record['data']}; {record['images']} images a request",
        machine_line(record["machine"]),
        f"{record['rounds']} rounds of {record['seconds']:g} s a phase, by turns; the driver is another process",
    ]
    verdict = [
        f"accepted under overload: {over['accepted_a_second'] / peak['accepted_a_second']:.2f} of the peak,",
        f"their p99 {over['accepted_p99_s'] / busy['accepted_p99_s']:.2f} times that at 70 %",
    ]
    return "\n".join([*lines, "", markdown(columns, rows), "", *verdict])


def cells(row: dict[str, Any]) -> Iterator[str]:
    """One phase's line of the table."""
    yield from (row["phase"], f"{row['sent_a_second']:.0f}", f"{row['accepted_a_second']:.0f}")
    yield from (milliseconds(row["accepted_p50_s"]), milliseconds(row["accepted_p99_s"]), str(row["refused"]))
    yield from (milliseconds(row["refused_p99_s"]), str(row["broken"]), milliseconds(row["late_p99_s"]))
    yield from (f"{100 * row['driver_share']:.0f} %", f"{100 * row['service_share']:.0f} %")


def milliseconds(seconds: float | None) -> str:
    """Milliseconds; empty without a value."""
    return "" if seconds is None else f"{1e3 * seconds:.1f}"


if __name__ == "__main__":
    main()
