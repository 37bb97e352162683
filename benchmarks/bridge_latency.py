"""Time from a posted picture to the register that a PLC reads: bridge, Anole and Modbus TCP. Target: below 100 ms.

    python benchmarks/bridge_latency.py [--pictures 300]

The service and the bridge run in processes of their own. The driver posts one picture after the other to the bridge,
and reads the counter register as fast as it can, as a PLC would in its cycle. The time runs from the first byte of the
post to the response that has the new counter.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from pymodbus.client import AsyncModbusTcpClient

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, script
from benchmarks.fixtures import draw, generated
from benchmarks.http_load import CLIENT, publish_version
from benchmarks.running_service import add_options, chosen_options, serving
from tests.free_port import free_port

WARM_UP: Final = 20
START_TRIES: Final = 6000
START_STEP_S: Final = 0.1
COUNTER: Final = 1
_COMMAND: Final = Path(sys.executable).with_name("anole")


@script
def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    task = draw(generated(3, 20, side=160, channels=3), np.random.default_rng(0), 3, 10, 10)
    described = options.machine()
    with serving(options) as service, tempfile.TemporaryDirectory(prefix="anole-bridge-") as folder:
        publish_version(service.url, task.support)
        posting, plc = free_port(), free_port()
        tables = f'[[source]]\ntype = "http"\nport = {posting}\n\n[[sink]]\ntype = "modbus"\nport = {plc}\n'
        with bridge(Path(folder), service.url, tables):
            seconds = asyncio.run(measured(posting, plc, task.query_images(), arguments.pictures))
    print(machine_line(described))
    print()
    rows = [[str(len(seconds)), *(milliseconds(seconds, share, 1) for share in (0.5, 0.99, 1.0))]]
    print(markdown(["pictures", "p50 ms", "p99 ms", "largest ms"], rows))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--pictures", 300, "pictures, one after the other", least=1)
    add_options(parser)
    return parser.parse_args()


@contextmanager
def bridge(folder: Path, url: str, tables: str) -> Iterator[subprocess.Popen[str]]:
    """Run `anole bridge` for the client of the benchmarks inside the block.

    Args:
        folder: where its configuration is written.
        url: address of the service.
        tables: sources and sinks, in TOML.
    """
    config = folder / "bridge.toml"
    rules = '[rules]\npass = ["class-0"]\n'
    config.write_text(f'[anole]\nclient = "{CLIENT}"\n\n{rules}\n{tables}', encoding="utf-8")
    command = [str(_COMMAND), "bridge", "--config", str(config), "--url", url]
    with subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


async def measured(posting: int, plc: int, images: Sequence[bytes], count: int) -> list[float]:
    """Return the seconds of each picture.

    Args:
        posting: port of the bridge's HTTP source.
        plc: port of its registers.
        images: pictures to post, in turn.
        count: pictures to measure.
    """
    modbus = AsyncModbusTcpClient("127.0.0.1", port=plc)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{posting}", timeout=60) as http:
        await until_ready(http)
        await modbus.connect()
        seconds: list[float] = []
        for image in itertools.islice(itertools.cycle(images), WARM_UP + count):
            before = await counter(modbus)
            started = time.perf_counter()
            posted = asyncio.create_task(http.post("/pictures", content=image))
            while await counter(modbus) == before:
                pass
            seconds.append(time.perf_counter() - started)
            (await posted).raise_for_status()
    modbus.close()
    return seconds[WARM_UP:]


async def until_ready(http: httpx.AsyncClient) -> None:
    """Wait until the bridge listens. Raises httpx.ConnectError if it does not."""
    for left in reversed(range(START_TRIES)):
        try:
            await http.get("/status")
        except httpx.ConnectError:
            if not left:
                raise
            await asyncio.sleep(START_STEP_S)
        else:
            return


async def counter(modbus: AsyncModbusTcpClient) -> int:
    """Read the counter of verdicts."""
    return (await modbus.read_holding_registers(COUNTER, count=1, device_id=1)).registers[0]


if __name__ == "__main__":
    main()
