"""Verdicts in = verdicts out, while the MQTT broker is killed again and again.

    python benchmarks/bridge_soak.py [--minutes 60] [--kill-every 60] [--away 5] [--rate 5]

The driver posts pictures to the bridge, and subscribes to its verdicts with a session that the broker keeps. The broker
is killed (SIGKILL) once per `--kill-every` seconds and started again `--away` seconds later. At the end every picture
that got a verdict must have arrived at the subscriber, or be counted as dropped. A verdict that arrives twice has the
same id, and is counted too. Needs mosquitto.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import aiomqtt
import httpx
import numpy as np

from benchmarks.bridge_latency import bridge, until_ready
from benchmarks.figures import Parser, markdown, script
from benchmarks.fixtures import draw, generated
from benchmarks.http_load import publish_version
from benchmarks.running_service import add_options, chosen_options, serving
from tests.free_port import free_port
from tests.mosquitto import MOSQUITTO, Broker

TOPIC: Final = "anole/+/+/verdict"
DRAIN_S: Final = 90.0
RECONNECT_S: Final = 0.2


@dataclass(slots=True)
class Account:
    """What went in and what came out.

    Attributes:
        judged: ids of the verdicts that the bridge answered posts with.
        unanswered: posts without a verdict.
        arrived: id -> how often its verdict arrived at the subscriber.
        kills: how often the broker was killed.
        counters: those of the bridge, at the end.
    """

    judged: list[str] = field(default_factory=list)
    unanswered: int = 0
    arrived: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    counters: dict[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Verdicts that neither arrived nor were counted as dropped."""
        missing = sum(each not in self.arrived for each in self.judged)
        return missing - int(self.counters["sinks"]["mqtt"]["dropped"])

    @property
    def doubled(self) -> int:
        """Verdicts that arrived more than once."""
        return sum(count > 1 for count in self.arrived.values())

    def table(self) -> str:
        """Return the account as a Markdown table."""
        sink = self.counters["sinks"]["mqtt"]
        rows = {
            "broker killed": self.kills,
            "pictures posted": len(self.judged) + self.unanswered,
            "verdicts in": len(self.judged),
            "verdicts out, each counted once": len(self.arrived),
            "counted as dropped": sink["dropped"],
            "lost": self.lost,
            "arrived twice, with one id": self.doubled,
            "connections made again": sink["reconnects"],
        }
        return markdown(["", "count"], [[name, f"{count:,}"] for name, count in rows.items()])


@script
def main() -> None:
    """Run, print the account, and exit with an error if a verdict is missing."""
    arguments = parse_arguments()
    if MOSQUITTO is None:
        sys.exit("error: there is no mosquitto; on Debian: apt-get install mosquitto")
    task = draw(generated(3, 20, side=96, channels=3), np.random.default_rng(0), 3, 10, 10)
    options = replace(chosen_options(arguments), environment={"ANOLE_ADAPT_S": "600"})  # other work may keep cores busy
    with serving(options) as service, tempfile.TemporaryDirectory(prefix="anole-soak-") as folder:
        publish_version(service.url, task.support)
        broker, posting = Broker(Path(folder)), free_port()
        tables = (
            f'[[source]]\ntype = "http"\nport = {posting}\n\n'
            f'[[sink]]\ntype = "mqtt"\nhost = "127.0.0.1"\nport = {broker.port}\nqueue = 100000\n'
        )
        try:
            broker.start()
            with bridge(Path(folder), service.url, tables):
                account = asyncio.run(soak(arguments, broker, posting, task.query_images()))
        finally:
            broker.kill()
    print(f"load {os.getloadavg()[0]:.2f} after the run")
    print(account.table())
    if account.lost or account.unanswered:
        sys.exit("error: a verdict is missing")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--minutes", 60.0, "duration")
    parser.option("--kill-every", 60.0, "seconds between two kills of the broker")
    parser.option("--away", 5.0, "seconds until the broker is started again")
    parser.option("--rate", 5.0, "pictures per second")
    add_options(parser)
    return parser.parse_args()


async def soak(arguments: argparse.Namespace, broker: Broker, posting: int, images: Sequence[bytes]) -> Account:
    """Post pictures and kill the broker, then wait until nothing waits any more."""
    account = Account()
    subscribed = asyncio.Event()
    subscribing = asyncio.create_task(subscribe(broker, account, subscribed))
    await subscribed.wait()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{posting}", timeout=60) as http:
        await until_ready(http)
        killing = asyncio.create_task(kill(arguments, broker, account))
        try:
            await post(http, images, arguments, account)
        finally:
            killing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killing
        broker.kill()
        broker.start()
        await drained(http, account)
    subscribing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await subscribing
    return account


async def post(
    http: httpx.AsyncClient, images: Iterable[bytes], arguments: argparse.Namespace, account: Account
) -> None:
    """Post pictures at the given rate until the time is over."""
    end_s = time.monotonic() + 60 * arguments.minutes
    for image in itertools.cycle(images):
        if time.monotonic() >= end_s:
            return
        response = await http.post("/pictures", content=image)
        if response.is_success:
            account.judged.append(response.json()["id"])
        else:
            account.unanswered += 1
        await asyncio.sleep(1 / arguments.rate)


async def kill(arguments: argparse.Namespace, broker: Broker, account: Account) -> None:
    """Kill the broker again and again."""
    while True:
        await asyncio.sleep(arguments.kill_every)
        broker.kill()
        account.kills += 1
        await asyncio.sleep(arguments.away)
        await asyncio.to_thread(broker.start)


async def subscribe(broker: Broker, account: Account, subscribed: asyncio.Event) -> None:
    """Count the verdicts that arrive. The broker keeps the session while the connection is away."""
    while True:
        try:
            async with aiomqtt.Client("127.0.0.1", broker.port, identifier="soak", clean_session=False) as client:
                await client.subscribe(TOPIC, qos=1)
                subscribed.set()
                async for message in client.messages:
                    account.arrived[json.loads(message.payload)["id"]] += 1
        except aiomqtt.MqttError:
            await asyncio.sleep(RECONNECT_S)


async def drained(http: httpx.AsyncClient, account: Account) -> None:
    """Wait until the bridge has sent what waits and it has arrived, but not for ever."""
    end_s = time.monotonic() + DRAIN_S
    while True:
        account.counters = (await http.get("/status")).json()
        if account.counters["sinks"]["mqtt"]["sent"] == len(account.judged) and not account.lost:
            return
        if time.monotonic() > end_s:
            return
        await asyncio.sleep(RECONNECT_S)


if __name__ == "__main__":
    main()
