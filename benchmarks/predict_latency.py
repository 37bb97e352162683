"""Latency of predicting one image over HTTP, alone and with 15 other requests in flight. Target: milliseconds.

    python benchmarks/predict_latency.py [--data-root FOLDER] [--requests 2000] [--concurrency 1 16]

The service runs in another process. The driver sends prepared requests over persistent connections and does not parse
the responses, so that it uses little of the machine. GET /livez, which the service answers at once, shows in the same
rounds the time that driver and HTTP take. A form is what the Python client sends; a body is one raw image. Without a
data root, the images are generated.
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
from rich.console import Console
from rich.progress import track

from benchmarks.figures import machine, machine_line, markdown, percentile
from benchmarks.labelled_pngs import draw, steel_or_generated
from benchmarks.running_service import RunningService, add_options, chosen_options, serving
from models.errors import AnoleError
from service.client import AdaptOptions, Client
from service.client import requests as client_requests

CLIENT: Final = "bench"
N_WAY: Final = 5
N_SHOT: Final = 10
GENERATED_IMAGES: Final = 30
WARM_UP: Final = 32
BUSY: Final = 0.9
"""A driver that uses more of a core than this may be what is measured."""


class AnswerRefused(AnoleError):
    """The status of a response was not 200."""


@dataclass
class Case:
    """One kind of request at one concurrency, and what was measured; the lists of rounds have one entry a round.

    Attributes:
        name: name in the table.
        requests: HTTP requests as bytes, sent in turn.
        concurrency: connections, each with one request in flight.
        seconds: latency of each request.
        own_s: time that the service reports for each; empty for requests that it does not time.
        rates: requests per second of each round.
        driver_share: processor time of this process per elapsed time, of each round.
        service_share: the same of the service; None if unknown.
    """

    name: str
    requests: Sequence[bytes]
    concurrency: int
    seconds: list[float] = field(default_factory=list)
    own_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    driver_share: list[float] = field(default_factory=list)
    service_share: list[float | None] = field(default_factory=list)


def main() -> None:
    """Measure and print the table."""
    arguments = parsed()
    try:
        measure(arguments)
    except AnoleError as error:
        sys.exit(f"error: {error}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-root", type=Path, default=None, help="folder with x_sdd.zip (default: generated images)"
    )
    parser.add_argument("--requests", type=int, default=2000, help="of each kind at each concurrency (default: 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="turns in which they are sent (default: 5)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[1, 16], help="requests in flight (default: 1 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_options(parser)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> None:
    """Serve a version, send the kinds of requests alternately, print."""
    options = chosen_options(arguments)
    found = machine(options)
    images = steel_or_generated(arguments.data_root, N_WAY, GENERATED_IMAGES)
    task = draw(images, np.random.default_rng(arguments.seed), N_WAY, N_SHOT, max_queries=10)
    queries = [content for contents in task.queries.values() for content in contents]
    with serving(options) as service:
        with Client(service.url) as anole:
            anole.adapt(CLIENT, task.support, AdaptOptions(mode="replace", publish="always"))
        kinds = {"GET /livez": [livez(service.url)]}
        kinds["POST /predict, form"] = [as_form(service.url, content) for content in queries]
        kinds["POST /predict, body"] = [as_body(service.url, content) for content in queries]
        cases = [Case(name, sent, many) for many in arguments.concurrency for name, sent in kinds.items()]
        count = max(1, arguments.requests // arguments.rounds)
        for case in cases:
            asyncio.run(send(case, service, WARM_UP, counted=False))
        for _ in track(range(arguments.rounds), "rounds", console=Console(stderr=True)):
            for case in cases:
                asyncio.run(send(case, service, count))
    size_bytes = int(np.median([len(content) for content in queries]))
    record = {"data": images.name, "image_bytes_p50": size_bytes, "machine": found, "rounds": arguments.rounds}
    record["cases"] = [figures_of(case) for case in cases]
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def livez(url: str) -> bytes:
    """A request that costs the service almost nothing."""
    return on_the_wire(httpx.Request("GET", f"{url}/livez"))


def as_form(url: str, content: bytes) -> bytes:
    """One image as the Python client sends it."""
    with httpx.Client(base_url=url) as http:
        request = client_requests.predict(CLIENT, [content])
        return on_the_wire(http.build_request(request.method, request.path, **request.content))


def as_body(url: str, content: bytes) -> bytes:
    """One image as the whole body."""
    headers = {"Content-Type": "image/png"}
    return on_the_wire(httpx.Request("POST", f"{url}/predict?client={CLIENT}", headers=headers, content=content))


def on_the_wire(request: httpx.Request) -> bytes:
    """The request as HTTP/1.1 bytes."""
    body = request.read()
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def send(case: Case, service: RunningService, count: int, *, counted: bool = True) -> None:
    """Send `count` requests over the case's connections and record their latency."""
    turns = iter(range(count))
    requests = itertools.cycle(case.requests)
    address = urlsplit(service.url)
    lines = [await asyncio.open_connection(address.hostname, address.port) for _ in range(case.concurrency)]
    driver_s, service_s, began = time.process_time(), service.cpu_seconds(), time.perf_counter()
    answered = await asyncio.gather(*(one_connection(line, turns, requests) for line in lines))
    passed_s = time.perf_counter() - began
    driver_s, used_s = time.process_time() - driver_s, service.cpu_seconds()
    for _, writer in lines:
        writer.close()
        await writer.wait_closed()
    answers = [answer for connection in answered for answer in connection]
    own = [float(read["seconds"]) for _, body in answers if "seconds" in (read := json.loads(body))]
    if not counted:
        return
    case.seconds += [seconds for seconds, _ in answers]
    case.own_s += own
    case.rates.append(len(answers) / passed_s)
    case.driver_share.append(driver_s / passed_s)
    case.service_share.append(None if service_s is None or used_s is None else (used_s - service_s) / passed_s)


async def one_connection(
    line: tuple[asyncio.StreamReader, asyncio.StreamWriter], turns: Iterator[int], requests: Iterator[bytes]
) -> list[tuple[float, bytes]]:
    """Send one request after another while there are turns left: seconds and body of each answer.

    Raises:
        AnswerRefused: the status is not 200.
    """
    reader, writer = line
    answers = []
    for _ in turns:
        began = time.perf_counter()
        writer.write(next(requests))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        answers.append((time.perf_counter() - began, body))
        if not head.startswith(b"http/1.1 200 "):
            raise AnswerRefused(f"{head.splitlines()[0].decode()}: {body.decode(errors='replace')}")
    return answers


def figures_of(case: Case) -> dict[str, Any]:
    """Results as JSON data; shares and rates are medians over rounds."""
    shares = [share for share in case.service_share if share is not None]
    return {
        "request": case.name,
        "concurrency": case.concurrency,
        "requests": len(case.seconds),
        "p50_s": percentile(case.seconds, 0.5),
        "p99_s": percentile(case.seconds, 0.99),
        "requests_a_second": percentile(case.rates, 0.5),
        "own_p50_s": percentile(case.own_s, 0.5) if case.own_s else None,
        "driver_share": percentile(case.driver_share, 0.5),
        "service_share": percentile(shares, 0.5) if shares else None,
    }


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    cases = record["cases"]
    concurrencies = dict.fromkeys(case["concurrency"] for case in cases)
    columns = (
        "request",
        "in flight",
        "p50 ms",
        "p99 ms",
        "requests/s",
        "own p50 ms",
        "driver's core",
        "service's core",
    )
    lines = [
        f"{record['data']}; one image a request, {record['image_bytes_p50']:,} bytes at the median",
        machine_line(record["machine"]),
        f"{cases[0]['requests']} requests a line in {record['rounds']} rounds by turns; the driver is another process;",
        "own: the service's own clock in the answer, which begins when the request's turn has come",
        "",
        markdown(columns, [row(case) for case in cases]),
        "",
        *(verdict([case for case in cases if case["concurrency"] == many]) for many in concurrencies),
    ]
    return "\n".join(lines)


def row(case: dict[str, Any]) -> tuple[str, ...]:
    """Format one row of the table."""
    own_s, share = case["own_p50_s"], case["service_share"]
    return (
        case["request"],
        str(case["concurrency"]),
        f"{1e3 * case['p50_s']:.2f}",
        f"{1e3 * case['p99_s']:.2f}",
        f"{case['requests_a_second']:.0f}",
        "" if own_s is None else f"{1e3 * own_s:.2f}",
        f"{100 * case['driver_share']:.0f} %",
        "" if share is None else f"{100 * share:.0f} %",
    )


def verdict(cases: Sequence[dict[str, Any]]) -> str:
    """State whether the driver limits the results of one concurrency; /livez comes first."""
    floor, *predictions = cases
    fastest = max(case["requests_a_second"] for case in predictions)
    busiest = max(case["driver_share"] for case in predictions)
    times = floor["requests_a_second"] / fastest
    held_back = busiest > BUSY or times < 1.5
    return (
        f"{floor['concurrency']} in flight: /livez is answered {times:.1f} times as often as /predict, and the driver "
        f"takes {100 * busiest:.0f} % of a core: it {'MAY BE' if held_back else 'is not'} the bottleneck."
    )


if __name__ == "__main__":
    main()
