"""Latency of predicting one image over HTTP, alone and with 15 other requests in flight. Target: milliseconds.

    python benchmarks/predict_latency.py [--data-root FOLDER] [--requests 2000] [--concurrency 1 16]

The service runs in another process. The driver sends prepared requests over persistent connections and reads of the
responses only the service's own time, so that it uses little of the machine. GET /livez, which the service answers at
once, shows in the same rounds the time that driver and HTTP take. So does the backbone alone, which the driver runs on
the same images. A form is what the Python client sends; a body is one raw image. Without a data root, the images are
generated.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, percentile, script
from benchmarks.fixtures import N_SHOT, N_WAY, draw, steel_or_generated
from benchmarks.http_load import Connection, as_body, as_form, connect, exchange, publish_version, wire_bytes
from benchmarks.running_service import RunningService, add_options, chosen_options, serving
from models.checkpoint import load_checkpoint
from models.errors import AnoleError
from models.images.preprocessing import decode, prepare
from models.inference.embedding import embedder_for

WARM_UP: Final = 32
BUSY: Final = 0.9
"""A driver that uses a larger share of a core may be the bottleneck."""


class RequestFailed(AnoleError):
    """The service answered with another status than 200."""


@dataclass
class Case:
    """One kind of request at one concurrency, and its measurements. The last four lists have one entry per round.

    Attributes:
        name: row of the table.
        requests: bytes to send, in turn.
        concurrency: connections, each with one request in flight.
        seconds: latency of each request.
        service_s: time of each request as reported by the service; empty for requests that it does not time.
        rates: requests per second.
        driver_share: processor time of this process divided by elapsed time.
        service_share: the same for the service.
    """

    name: str
    requests: Sequence[bytes]
    concurrency: int
    seconds: list[float] = field(default_factory=list)
    service_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    driver_share: list[float] = field(default_factory=list)
    service_share: list[float] = field(default_factory=list)


@script
def main() -> None:
    """Serve a version, send all kinds of requests alternately, and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    machine = options.machine()
    images = steel_or_generated(arguments.data_root)
    task = draw(images, np.random.default_rng(arguments.seed), N_WAY, N_SHOT, max_queries=10)
    queries = task.query_images()
    with serving(options) as service:
        publish_version(service.url, task.support)
        kinds = {
            "GET /livez": [wire_bytes(httpx.Request("GET", f"{service.url}/livez"))],
            "POST /predict, form": [as_form(service.url, [content]) for content in queries],
            "POST /predict, body": [as_body(service.url, content) for content in queries],
        }
        cases = [Case(name, sent, many) for many in arguments.concurrency for name, sent in kinds.items()]
        count = max(1, arguments.requests // arguments.rounds)
        backbone_s: list[float] = []
        for case in cases:
            asyncio.run(send(Case(case.name, case.requests, case.concurrency), service, WARM_UP))
        for _ in track(range(arguments.rounds), "rounds", console=Console(stderr=True)):
            for case in cases:
                asyncio.run(send(case, service, count))
            backbone_s += backbone_alone(options.checkpoint, queries, count)
    size_bytes = int(np.median([len(content) for content in queries]))
    record = {"data": images.name, "image_bytes_p50": size_bytes, "machine": machine, "rounds": arguments.rounds}
    record["cases"] = [case_record(case) for case in cases]
    record["backbone_p50_s"] = percentile(backbone_s, 0.5) if backbone_s else None
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def backbone_alone(checkpoint: str, files: Sequence[bytes], count: int) -> list[float]:
    """Seconds of a frozen backbone on one image at a time, on one thread of this process; empty for other nets."""
    torch.set_num_threads(1)
    loaded = load_checkpoint(checkpoint)
    embedder = embedder_for(loaded, loaded.build_net(), torch.device("cpu"))
    if embedder is None:
        return []
    images = [prepare([decode(content)], loaded.net_config.image) for content in files]
    seconds = []
    for image in itertools.islice(itertools.cycle(images), WARM_UP + count):
        began = time.perf_counter()
        embedder.embed(image)
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--requests", 2000, "requests of each kind at each concurrency")
    parser.option("--rounds", 5, "rounds in which the kinds alternate")
    parser.option("--concurrency", [1, 16], "requests in flight")
    parser.option("--seed", 0, "seed for the choice of images")
    parser.json()
    add_options(parser)
    return parser.parse_args()


async def send(case: Case, service: RunningService, count: int) -> None:
    """Send `count` requests over the connections of the case and record them."""
    turns, requests = iter(range(count)), itertools.cycle(case.requests)
    connections = [await connect(service.url) for _ in range(case.concurrency)]
    driver_s, service_s, began = time.process_time(), service.cpu_seconds(), time.perf_counter()
    per_connection = await asyncio.gather(*(send_over(one, turns, requests) for one in connections))
    passed_s = time.perf_counter() - began
    driver_s, service_s = time.process_time() - driver_s, service.cpu_seconds() - service_s
    for _, writer in connections:
        writer.close()
        await writer.wait_closed()
    answers = [answer for answers in per_connection for answer in answers]
    case.seconds += [seconds for seconds, _ in answers]
    case.service_s += [float(parsed["seconds"]) for _, body in answers if "seconds" in (parsed := json.loads(body))]
    case.rates.append(len(answers) / passed_s)
    case.driver_share.append(driver_s / passed_s)
    case.service_share.append(service_s / passed_s)


async def send_over(
    connection: Connection, turns: Iterator[int], requests: Iterator[bytes]
) -> list[tuple[float, bytes]]:
    """Send one request after another while there are turns left; return seconds and body of each response.

    Raises:
        RequestFailed: the status is not 200.
    """
    answers = []
    for _ in turns:
        began = time.perf_counter()
        status, body = await exchange(connection, next(requests))
        answers.append((time.perf_counter() - began, body))
        if status != httpx.codes.OK:
            raise RequestFailed(f"the service answered {status}: {body.decode(errors='replace')}")
    return answers


def case_record(case: Case) -> dict[str, Any]:
    """The measurements as JSON data; shares and rates are medians over rounds."""
    return {
        "request": case.name,
        "concurrency": case.concurrency,
        "requests": len(case.seconds),
        "p50_s": percentile(case.seconds, 0.5),
        "p99_s": percentile(case.seconds, 0.99),
        "requests_per_s": percentile(case.rates, 0.5),
        "service_p50_s": percentile(case.service_s, 0.5) if case.service_s else None,
        "driver_share": percentile(case.driver_share, 0.5),
        "service_share": percentile(case.service_share, 0.5),
    }


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    cases = record["cases"]
    columns = (
        "request", "in flight", "p50 ms", "p99 ms", "requests/s", "p50 ms by the service", "driver's core",
        "service's core",
    )  # fmt: skip
    rows = [
        (
            case["request"],
            str(case["concurrency"]),
            milliseconds([case["p50_s"]]),
            milliseconds([case["p99_s"]]),
            f"{case['requests_per_s']:.0f}",
            milliseconds([case["service_p50_s"]] if case["service_p50_s"] else []),
            f"{100 * case['driver_share']:.0f} %",
            f"{100 * case['service_share']:.0f} %",
        )
        for case in cases
    ]
    concurrencies = dict.fromkeys(case["concurrency"] for case in cases)
    return "\n".join([
        f"{record['data']}; one image per request, median {record['image_bytes_p50']:,} bytes",
        machine_line(record["machine"]),
        f"{cases[0]['requests']} requests per row, in {record['rounds']} alternating rounds",
        "p50 by the service: the time in its response, from the moment that it starts to handle the request",
        "",
        markdown(columns, rows),
        "",
        *backbone_line(record),
        *(verdict([case for case in cases if case["concurrency"] == many]) for many in concurrencies),
    ])  # fmt: skip


def backbone_line(record: dict[str, Any]) -> list[str]:
    """How long the backbone takes, and a form with one request in flight in comparison."""
    backbone_s = record["backbone_p50_s"]
    forms_s = [case["p50_s"] for case in record["cases"] if case["concurrency"] == 1 and "form" in case["request"]]
    ratios = "".join(f"; a form takes {form_s / backbone_s:.2f} times as long" for form_s in forms_s if backbone_s)
    return [f"The backbone alone takes {milliseconds([backbone_s])} ms at p50{ratios}."] if backbone_s else []


def verdict(cases: Sequence[dict[str, Any]]) -> str:
    """Whether the driver limits the result: a sentence about one concurrency, whose first case is /livez."""
    livez, *predictions = cases
    ratio = livez["requests_per_s"] / max(case["requests_per_s"] for case in predictions)
    share = max(case["driver_share"] for case in predictions)
    limits = share > BUSY or ratio < 1.5
    return (
        f"{livez['concurrency']} in flight: /livez reaches {ratio:.1f} times the rate of /predict and the driver uses "
        f"{100 * share:.0f} % of a core, so the driver {'MAY BE' if limits else 'is not'} the bottleneck."
    )


if __name__ == "__main__":
    main()
