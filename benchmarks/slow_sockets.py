"""Latency of a legitimate client while a thousand connections send slowly. Target: unchanged.

    python benchmarks/slow_sockets.py [--sockets 1000] [--requests 200] [--rounds 3]

Runs over the loopback, alternately with and without the slow connections. Four of five slowly send a request head, the
fifth a body, at one byte per second each, and reconnect when they are closed. More bodies would exceed the limit per
address, because all come from one address. One connection predicts meanwhile. Both sides are measured in every round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import resource
import sys
from typing import Final

import numpy as np

from benchmarks.figures import Parser, markdown, milliseconds, percentile, script
from benchmarks.fixtures import draw, generated
from benchmarks.http_load import as_body, connect, publish_version
from benchmarks.predict_latency import send_over
from benchmarks.running_service import add_options, chosen_options, serving

ALLOWED_RATIO: Final = 1.5
INTERVAL_S: Final = 1.0
BODY_EVERY: Final = 5
OTHER_FILES: Final = 256
STARTS: Final = (
    b"GET /clients HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    b"POST /predict?client=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n",
)


@script
def main() -> None:
    """Measure, print the table, and exit with an error if the p99 rises by more than the allowed ratio."""
    arguments = parse_arguments()
    allow_files(arguments.sockets + OTHER_FILES)
    print(f"load {os.getloadavg()[0]:.2f} before the run")
    task = draw(generated(2, 8), np.random.default_rng(0), 2, 4)
    with serving(chosen_options(arguments)) as service:
        publish_version(service.url, task.support)
        request = as_body(service.url, task.query_images()[0])
        without, during = asyncio.run(measure(service.url, request, arguments))
    rows = [
        (name, str(len(seconds)), *(milliseconds(seconds, share, 1) for share in (0.5, 0.99)))
        for name, seconds in (("without", without), (f"with {arguments.sockets:,} slow connections", during))
    ]
    print(markdown(("predicting one image", "requests", "p50 ms", "p99 ms"), rows))
    ratio = percentile(during, 0.99) / percentile(without, 0.99)
    print(f"\nratio of the p99: {ratio:.2f}, allowed: {ALLOWED_RATIO}")
    if ratio > ALLOWED_RATIO:
        sys.exit("error: slow connections increase the latency of other clients")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--sockets", 1000, "slow connections")
    parser.option("--requests", 200, "requests per side and round")
    parser.option("--rounds", 3, "rounds in which both sides alternate")
    add_options(parser)
    return parser.parse_args()


def allow_files(count: int) -> None:
    """Raise the limit of open files of this process to `count`, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def measure(url: str, request: bytes, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of each request, without and with the slow connections."""
    without: list[float] = []
    during: list[float] = []
    await timed(url, request, 20)
    for _ in range(arguments.rounds):
        without += await timed(url, request, arguments.requests)
        senders = [
            asyncio.create_task(send_slowly(url, STARTS[number % BODY_EVERY == 0]))
            for number in range(arguments.sockets)
        ]
        await asyncio.sleep(2 * INTERVAL_S)
        during += await timed(url, request, arguments.requests)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    return without, during


async def timed(url: str, request: bytes, count: int) -> list[float]:
    """Seconds of each of `count` requests, sent one after another."""
    connection = await connect(url)
    answers = await send_over(connection, iter(range(count)), itertools.repeat(request))
    connection[1].close()
    return [seconds for seconds, _ in answers]


async def send_slowly(url: str, start: bytes) -> None:
    """Send the start of a request, then one byte per second; reconnect when the connection is closed."""
    while True:
        _, writer = await connect(url)
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(start)
                while not writer.is_closing():
                    await asyncio.sleep(INTERVAL_S)
                    writer.write(b"x")
                    await writer.drain()
        finally:
            writer.close()


if __name__ == "__main__":
    main()
