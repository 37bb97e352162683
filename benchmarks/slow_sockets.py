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
from urllib.parse import urlsplit

import numpy as np

from benchmarks.figures import markdown, percentile
from benchmarks.labelled_pngs import draw, generated
from benchmarks.predict_latency import CLIENT, as_body, one_connection
from benchmarks.running_service import add_options, chosen_options, serving
from service.client import AdaptOptions, Client

ALLOWED = 1.5
DRIP_S = 1.0
BODY_EVERY = 5
OTHER_FILES = 256
BEGUN = (
    b"GET /clients HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    b"POST /predict?client=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n",
)


def main() -> None:
    """Measure and print the table; fail if the allowed factor is exceeded."""
    arguments = parsed()
    allow_files(arguments.sockets + OTHER_FILES)
    print(f"load {os.getloadavg()[0]:.2f} before the run")
    task = draw(generated(2, 8), np.random.default_rng(0), 2, 4)
    query = next(content for contents in task.queries.values() for content in contents)
    with serving(chosen_options(arguments)) as service:
        with Client(service.url) as anole:
            anole.adapt(CLIENT, task.support, AdaptOptions(mode="replace", publish="always"))
        request = as_body(service.url, query)
        without, beside = asyncio.run(measured(service.url, request, arguments))
    rows = [row("alone", without), row(f"beside {arguments.sockets:,} slow sockets", beside)]
    print(markdown(("one image predicted", "requests", "p50 ms", "p99 ms"), rows))
    factor = percentile(beside, 0.99) / percentile(without, 0.99)
    print(f"\np99 beside them is {factor:.2f} times p99 alone; {ALLOWED} is allowed")
    if factor > ALLOWED:
        sys.exit("error: slow senders slow the others down")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=1000, help="slow ones (default: 1000)")
    parser.add_argument("--requests", type=int, default=200, help="of each side in each round (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both sides (default: 3)")
    add_options(parser)
    return parser.parse_args()


def allow_files(count: int) -> None:
    """Raise the limit of open files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def measured(url: str, request: bytes, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of each request, without and with slow connections."""
    without: list[float] = []
    beside: list[float] = []
    await timed(url, request, 20)
    for _ in range(arguments.rounds):
        without += await timed(url, request, arguments.requests)
        senders = [
            asyncio.create_task(slow(url, BEGUN[number % BODY_EVERY == 0])) for number in range(arguments.sockets)
        ]
        await asyncio.sleep(2 * DRIP_S)
        beside += await timed(url, request, arguments.requests)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    return without, beside


async def timed(url: str, request: bytes, count: int) -> list[float]:
    """Seconds of each of several consecutive requests."""
    address = urlsplit(url)
    line = await asyncio.open_connection(address.hostname, address.port)
    answers = await one_connection(line, iter(range(count)), itertools.repeat(request))
    line[1].close()
    return [seconds for seconds, _ in answers]


async def slow(url: str, begun: bytes) -> None:
    """Send a request at one byte per second, and reconnect when closed."""
    address = urlsplit(url)
    while True:
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(begun)
                while not writer.is_closing():
                    await asyncio.sleep(DRIP_S)
                    writer.write(b"x")
                    await writer.drain()
        finally:
            writer.close()


def row(name: str, seconds: list[float]) -> tuple[str, ...]:
    """One line of the table."""
    return (name, str(len(seconds)), *(f"{1e3 * percentile(seconds, share):.1f}" for share in (0.5, 0.99)))


if __name__ == "__main__":
    main()
