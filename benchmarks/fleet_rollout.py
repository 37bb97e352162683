"""Time until 200,000 devices have a release, simulated from the measured cost of real agents. Target: under 180 s.

    python benchmarks/fleet_rollout.py [--devices 2000] [--simulated 200000]

First, real agents poll a repository over HTTP on loopback, each with a data folder of its own: without news, then with
a new release, which each verifies, installs and tries on its smoke set. That gives requests, bytes and processor time a
device. Then an event simulation takes them for many more devices behind nodes of a content delivery network.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import httpx
import structlog
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.figures import Parser, machine, machine_line, markdown, script
from benchmarks.fixtures import generated
from benchmarks.simulated_fleet import Assumptions, DeviceCost, Simulated, simulate
from models.checkpoint import load_checkpoint
from models.errors import AnoleError
from service import bootstrap
from service.edge.agent import Agent
from service.edge.bundle import Release, Start
from service.edge.installed import STATE, InstalledReleases
from service.edge.predictor import LoadedStart
from service.edge.repository import TrustedRepository
from service.fleet.release import build_release, build_start
from service.fleet.repository import SignedRepository
from service.fleet.rollout import Fleet
from service.fleet.signing import KeyFolder
from service.runtime.decoder import Upload
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.settings import load_settings
from service.store.open_store import StoreLocation, open_store
from service.usecases.adapt_command import AdaptCommand

TARGET_S: Final = 180.0
CLIENT: Final = "line-7"
START_LIMIT_S: Final = 30.0
_STATIC_SERVER: Final = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
app = Starlette(routes=[Mount("/", StaticFiles(directory=sys.argv[1]))])
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""


class NotUpdated(AnoleError):
    """Agents did not install the release."""


@dataclass
class Wire:
    """Requests, and bytes with their heads; without TCP and TLS."""

    requests: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def count(self, response: httpx.Response) -> None:
        """Add a request and its response."""
        request = response.request
        line = len(request.method) + len(request.url.raw_path) + len(" HTTP/1.1\r\n") + 1
        self.requests += 1
        self.sent_bytes += line + _head_bytes(request.headers)
        length = 0 if response.status_code == httpx.codes.NOT_MODIFIED else int(response.headers["content-length"])
        self.received_bytes += len(f"HTTP/1.1 {response.status_code} {response.reason_phrase}\r\n") + length
        self.received_bytes += _head_bytes(response.headers)


@dataclass(frozen=True)
class Measured:
    """Cost of one poll of one device.

    Attributes:
        requests: sent.
        sent_bytes: with heads.
        received_bytes: with heads.
        processor_s: of the agent, all threads.
        polls_per_s: of all agents together, with the web server on the same machine.
    """

    requests: float
    sent_bytes: float
    received_bytes: float
    processor_s: float
    polls_per_s: float


@script
def main() -> None:
    """Measure, simulate, and print both."""
    arguments = parse_arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    record = machine(arguments.model)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="anole-fleet-") as folder:
        idle, update, sizes = measure(Path(folder), arguments.model, arguments.devices, arguments.threads)
    assumptions = Assumptions(devices=arguments.simulated)
    cost = DeviceCost(round(update.requests), update.received_bytes, idle.received_bytes, update.processor_s)
    results = {
        "content delivery network": simulate(cost, assumptions),
        "the same, 2 % of the devices off": simulate(cost, Assumptions(devices=arguments.simulated, off_share=0.02)),
        "origin alone": simulate(cost, Assumptions(devices=arguments.simulated, nodes=0)),
    }
    if arguments.json:
        shown = {"idle": asdict(idle), "update": asdict(update), "bytes": sizes, "assumptions": asdict(assumptions)}
        print(
            json.dumps({"machine": record, **shown, "simulated": {n: asdict(r) for n, r in results.items()}}, indent=2)
        )
        return
    print(machine_line(record), f"{arguments.devices} agents, {arguments.threads} threads", sep="\n")
    print_tables({"without news": idle, "with a new release": update}, sizes, assumptions, results)


def parse_arguments() -> argparse.Namespace:
    """Parse the options."""
    parser = Parser(__doc__)
    parser.option("--devices", 2000, "real agents", least=1)
    parser.option("--simulated", 200_000, "simulated devices", least=1)
    parser.option("--model", "efficientnet-lite0", "checkpoint")
    parser.option("--threads", 2, "threads that the agents share", least=1)
    parser.add_argument("--folder", type=Path, default=None, help="where the devices' folders are made (default: /tmp)")
    parser.json()
    return parser.parse_args()


def measure(folder: Path, model: str, devices: int, threads: int) -> tuple[Measured, Measured, dict[str, int]]:
    """Poll with real agents: the cost without news, the cost with a new release, and the sizes of the files."""
    start, releases = build_files(folder, model)
    repository = SignedRepository(folder / "repository", KeyFolder(folder / "keys"))
    repository.create({})
    fleet = Fleet(repository)
    fleet.publish("stable", releases[0], start, 100)
    with delivered(repository.folder) as url:
        wire = Wire()
        agents = install_first(folder, repository, url, wire, devices)
        poll_all(agents, wire, threads, "first poll after a start")
        idle = poll_all(agents, wire, threads, "without news")
        fleet.publish("stable", releases[1], start, 100)
        update = poll_all(agents, wire, threads, "with a release")
    running = {agent.summary()[CLIENT][0].info.version for agent in agents}
    if running != {2}:
        raise NotUpdated(f"agents run the versions {running} and report {agents[0].problem!r}")
    sizes = {"start": len(start.to_bytes()), "release": len(releases[1].to_bytes())}
    return idle, update, sizes


def build_files(folder: Path, model: str) -> tuple[Start, list[Release]]:
    """Adapt a client twice and build its releases."""
    settings = load_settings(data=folder / "data", model=model, device="cpu", demo=False, decoder_processes=0)
    images = generated(n_way=5, images_per_class=5, channels=3)
    uploads = [(label, content) for label, files in images.classes.items() for _, content in files]
    services = bootstrap.build(settings)
    for _ in range(2):
        sent = tuple(Upload(f"{index}.png", content) for index, (_, content) in enumerate(uploads))
        labels = tuple(label for label, _ in uploads)
        services.adaptation.run(AdaptCommand(client=CLIENT, uploads=sent, labels=labels, publish="always"))
    services.close()
    checkpoint = load_checkpoint(model)
    loaded = LoadedCheckpoint(checkpoint, torch.device("cpu"))
    with open_store(StoreLocation.of(settings), missing="reject") as store:
        releases = [build_release(store, store.catalog.version(CLIENT, number), loaded) for number in (1, 2)]
    loaded.close()
    return build_start(checkpoint), releases


def install_first(folder: Path, repository: SignedRepository, url: str, wire: Wire, devices: int) -> list[Agent]:
    """Install the first release on one device, and copy its folder to the others, each with an id of its own.

    The start is in memory once for all agents of this process, so that thousands fit.
    """
    root = repository.root_path().read_bytes()
    client = httpx.Client(limits=httpx.Limits(max_connections=64), event_hooks={"response": [wire.count]})
    starts: dict[str, LoadedStart] = {}

    def agent_in(place: Path) -> Agent:
        source = TrustedRepository(url, place / "metadata", root, client)
        return Agent(InstalledReleases(place), source, "stable", starts=starts)

    first = agent_in(folder / "devices" / "0")
    first.poll()
    for file in (folder / "devices" / "0" / "files").iterdir():
        if file.name in starts:
            file.unlink()
    agents = [first]
    state = json.loads((folder / "devices" / "0" / STATE).read_text())
    for number in track(range(1, devices), "devices", console=Console(stderr=True)):
        place = folder / "devices" / str(number)
        shutil.copytree(folder / "devices" / "0", place, symlinks=True)
        (place / STATE).write_text(json.dumps({**state, "device": f"{number:032x}"}))
        agents.append(agent_in(place))
        agents[-1].load()
    return agents


def poll_all(agents: list[Agent], wire: Wire, threads: int, name: str) -> Measured:
    """Poll once with every agent."""
    before, began, processor_began = Wire(**asdict(wire)), time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        for _ in track(pool.map(Agent.poll, agents), name, total=len(agents), console=Console(stderr=True)):
            pass
    failed = [agent.problem for agent in agents if agent.problem is not None]
    if failed:
        raise NotUpdated(f"{len(failed)} of {len(agents)} polls failed: {failed[0]}")
    count, elapsed_s = len(agents), time.perf_counter() - began
    return Measured(
        requests=(wire.requests - before.requests) / count,
        sent_bytes=(wire.sent_bytes - before.sent_bytes) / count,
        received_bytes=(wire.received_bytes - before.received_bytes) / count,
        processor_s=(time.process_time() - processor_began) / count,
        polls_per_s=count / elapsed_s,
    )


@contextmanager
def delivered(folder: Path) -> Iterator[str]:
    """Deliver a folder over HTTP from a process of its own; yield the URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", _STATIC_SERVER, str(folder), str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait(url: str) -> None:
    began = time.monotonic()
    pause = threading.Event()
    while True:
        try:
            httpx.get(f"{url}/metadata/timestamp.json").raise_for_status()
        except httpx.HTTPError as error:
            if time.monotonic() - began > START_LIMIT_S:
                raise NotUpdated(f"the web server did not start within {START_LIMIT_S:g} s") from error
            pause.wait(0.1)
        else:
            return


def _head_bytes(headers: httpx.Headers) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw) + len("\r\n")


def print_tables(
    measured: dict[str, Measured], sizes: dict[str, int], assumptions: Assumptions, results: dict[str, Simulated]
) -> None:
    """Print the cost of a device, the assumptions and the simulated times."""
    print(f"\nrelease {sizes['release']} bytes, start {sizes['start']} bytes (once)\n")
    rows = [
        (name, f"{each.requests:.1f}", f"{each.sent_bytes:.0f}", f"{each.received_bytes:.0f}",
         f"{1e3 * each.processor_s:.1f}", f"{each.polls_per_s:.0f}")
        for name, each in measured.items()
    ]  # fmt: skip
    print(markdown(("a poll", "requests", "bytes sent", "bytes received", "processor ms", "polls/s here"), rows))
    print("\nassumptions:", ", ".join(f"{name} {value:g}" for name, value in asdict(assumptions).items()), "\n")
    print(markdown(("simulated", *Simulated.HEADINGS), [(name, *each.cells()) for name, each in results.items()]))
    reached_s = results["content delivery network"].all_s
    print(f"\nall devices after {reached_s:.0f} s; the target is less than {TARGET_S:g} s")


if __name__ == "__main__":
    main()
