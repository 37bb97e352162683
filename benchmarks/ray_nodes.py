"""What a second node of Ray gives, and what a node costs that is killed or cut off.

    sudo .venv/bin/python benchmarks/ray_nodes.py [--seconds 10] [--faults cut killed cut-long]

A node is a network namespace of this machine with its own address, and `ray start` in it. Both share the cores, so this
measures the cost of nodes and what happens when one is lost, not how fast two machines are. PostgreSQL and S3 are at a
third address. Requests go to Ray's proxy on the first node, and the second node is killed (SIGKILL to all its
processes) or cut off (its link down, then up again). Needs Linux, root, `ip`, and the extras `test` and `ray`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.figures import Parser, machine, machine_line, markdown, milliseconds, script
from benchmarks.fixtures import Draw, draw, generated
from benchmarks.network_nodes import Node, network
from models.errors import AnoleError
from service.client import AdaptOptions, Client
from tests.real_parts import CREDENTIALS, ObjectServer, PostgresServer

NETWORK: Final = "10.77.0.0/24"
STORE: Final = "10.77.0.1"
CUT_S: Final = {"cut": 20, "cut-long": 80}
"""How long a link stays down. Ray gives a silent node up after 5 checks of up to 13 s, so 80 s are longer."""

START_S: Final = 120.0
ANSWER_S: Final = 10.0
"""A request without an answer is given up after this time, twice what the service gives a prediction."""

WARM_UP_S: Final = 3.0
WINDOW_S: Final = 3.0
KEY: Final = f"anole_raynodes_{secrets.token_hex(32)}"


class NoCluster(AnoleError):
    """Ray, or the service on it, could not be started."""


HEAD: Final = Node("anole-head", "10.77.0.11")
WORKER: Final = Node("anole-worker", "10.77.0.12")
URL: Final = f"http://{HEAD.address}:8000"


@dataclass(frozen=True, slots=True)
class Answer:
    """When an answer came (on the clock of `time.monotonic`), how long it took, and its status or "no answer"."""

    at_s: float
    took_s: float
    status: str


@dataclass(slots=True)
class Load:
    """What was sent to the service and came back.

    Attributes:
        predictions, adaptations: all answers.
        acknowledged: version -> digest of its weights, of all adaptations with an answer.
        fault_s: when the fault began.
        began_s, ended_s: of the load.
    """

    predictions: list[Answer] = field(default_factory=list)
    adaptations: list[Answer] = field(default_factory=list)
    acknowledged: dict[int, str] = field(default_factory=dict)
    fault_s: float = 0.0
    began_s: float = 0.0
    ended_s: float = 0.0

    def good(self) -> list[float]:
        """When the good predictions came."""
        return [answer.at_s for answer in self.predictions if answer.status == "200"]

    def errors(self) -> str:
        """Errors by status, of predictions and adaptations."""
        kinds = {"adaptation": self.adaptations, "prediction": self.predictions}
        found = Counter(
            f"{kind} {answer.status}"
            for kind, answers in kinds.items()
            for answer in answers
            if not answer.status.startswith("2")
        )
        return ", ".join(f"{kind}: {count}" for kind, count in sorted(found.items())) or "none"


def longest_pause_s(good: Sequence[float], fault_s: float, end_s: float) -> float:
    """The longest time without a good answer after the fault; a pause that the fault interrupts counts from it."""
    times = [fault_s, *(at for at in good if at > fault_s), end_s]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def low_s(good: Sequence[float], fault_s: float, end_s: float, before_per_s: float) -> int:
    """How many whole seconds after the fault have less than half of the rate before."""
    counts = Counter(int(at - fault_s) for at in good if at >= fault_s)
    return sum(counts[second] < before_per_s / 2 for second in range(int(end_s - fault_s)))


def rate_back_s(good: Sequence[float], fault_s: float, end_s: float, before_per_s: float) -> float | None:
    """Seconds from the fault until the end of the last window with less than half of the rate before.

    Returns:
        0 without such a window; None if the last window of the load is one.
    """
    low = [
        begin + WINDOW_S
        for begin in np.arange(fault_s, end_s - WINDOW_S + 0.01, 0.5)
        if sum(begin <= at < begin + WINDOW_S for at in good) < before_per_s * WINDOW_S / 2
    ]
    if not low:
        return 0.0
    return None if low[-1] > end_s - 0.5 else float(low[-1] - fault_s)


@contextmanager
def shared_store() -> Iterator[dict[str, str]]:
    """PostgreSQL and S3 at the address of the store, as the environment of the service."""
    with ExitStack() as stack:
        database, objects = PostgresServer(STORE, NETWORK), ObjectServer(STORE)
        stack.callback(database.remove)
        stack.callback(objects.remove)
        yield {
            **CREDENTIALS,
            "ANOLE_CATALOG_URL": database.url(database.new_database()),
            "ANOLE_BLOBS_URL": objects.url(objects.new_bucket()),
        }


def replicas_on(node: Node) -> str:
    """What Ray Serve runs on a node, e.g. "ingress, 2 predictor"."""
    found: Counter[str] = Counter()
    pids = node.pids()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            title = Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
            if title.startswith("ray::ServeReplica:"):
                found[title.split(":")[-1].partition(".")[0]] += 1
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in sorted(found.items())) or (
        "no replica" if pids else "no process"
    )


def start_ray(node: Node, environment: dict[str, str], folder: Path) -> None:
    """Start Ray on a node."""
    place = ["--head", "--port", "6379"] if node is HEAD else ["--address", f"{HEAD.address}:6379"]
    options = ["--node-ip-address", node.address, "--num-cpus", "4", "--object-store-memory", str(1 << 28)]
    options += ["--include-dashboard", "false"] if node is HEAD else []
    options += ["--temp-dir", str(folder / node.name)]
    command = node.inside(Path(sys.executable).with_name("ray"), "start", *place, *options)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode:
        raise NoCluster(f"Ray did not start on {node.name}:\n{done.stdout}{done.stderr}")


@contextmanager
def serving(environment: dict[str, str], folder: Path, model: str, *arguments: str) -> Iterator[None]:
    """The service on the first node, ready for requests. Raises NoCluster."""
    log = folder / "serve.log"
    options = ["--host", "0.0.0.0", "--port", "8000", "--model", model, "--data", str(folder / "data"), *arguments]
    command = HEAD.inside(Path(sys.executable).with_name("anole"), "serve", *options)
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + START_S
        while "Anole serves on" not in log.read_text() or not ready():  # the ingress is ready before the others
            if process.poll() is not None or time.monotonic() > until:
                raise NoCluster(f"the service did not start; its log ends with\n{log.read_text()[-3000:]}")
            threading.Event().wait(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ready() -> bool:
    """Whether the service accepts requests."""
    try:
        return httpx.get(f"{URL}/readyz", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def send(
    load: Load, task: Draw, client: str, seconds: float, in_flight: int, lose: Sequence[tuple[float, Any]]
) -> None:
    """Send predictions, and adaptations if a node is lost, and do what `lose` says so many seconds after the start."""
    load.began_s = time.monotonic()
    until = load.began_s + seconds
    pictures = itertools.cycle(task.query_images())
    form = {"client": client, "mode": "replace", "publish": "always", "labels": [each.label for each in task.support]}
    files = [("samples", (each.name, each.content)) for each in task.support]

    async def exchange(answers: list[Answer], path: str, **content: Any) -> httpx.Response | None:
        began, response, status = time.monotonic(), None, "no answer"
        with contextlib.suppress(httpx.TransportError):
            response = await http.post(path, **content)
            status = str(response.status_code)
        answers.append(Answer(time.monotonic(), time.monotonic() - began, status))
        if not status.startswith("2"):
            await asyncio.sleep(0.05)
        return response

    async def predict() -> None:
        headers = {"Content-Type": "image/png"}
        while time.monotonic() < until:
            picture = next(pictures)
            await exchange(load.predictions, "/predict?client=line", content=picture, headers=headers)

    async def adapt() -> None:
        while time.monotonic() < until:
            response = await exchange(load.adaptations, "/adapt", data=form, files=files)
            if response is not None and response.is_success:
                made = response.json()
                load.acknowledged[made["version"]] = made["weights"]["digest"]

    async def lose_node() -> None:
        for after_s, action in lose:
            await asyncio.sleep(load.began_s + after_s - time.monotonic())
            load.fault_s = load.fault_s or time.monotonic()
            await asyncio.to_thread(action)

    async with httpx.AsyncClient(base_url=URL, headers={"X-API-Key": KEY}, timeout=ANSWER_S) as http:
        await asyncio.gather(*(predict() for _ in range(in_flight)), *([adapt(), lose_node()] if lose else []))
    load.ended_s = time.monotonic()


def steady_row(name: str, task: Draw, arguments: argparse.Namespace) -> list[str]:
    """Teach the service, warm it up and measure it."""
    with Client(URL, key=KEY, timeout=httpx.Timeout(START_S)) as anole:
        anole.adapt("line", task.support, AdaptOptions(mode="replace", publish="always"))
    asyncio.run(send(Load(), task, "", WARM_UP_S, arguments.in_flight, []))
    load = Load()
    asyncio.run(send(load, task, "", arguments.seconds, arguments.in_flight, []))
    took = [answer.took_s for answer in load.predictions if answer.status == "200"]
    rate = f"{len(took) / (load.ended_s - load.began_s):.0f}"
    return [name, rate, milliseconds(took, decimals=0), milliseconds(took, 0.99, decimals=0), load.errors()]


def fault_row(fault: str, task: Draw, arguments: argparse.Namespace) -> list[str]:
    """Lose the second node under load, in the way that `fault` names."""
    before_s, load = max(5.0, arguments.seconds / 2), Load()
    if fault == "killed":
        name, lose, after_s = "killed", [(before_s, WORKER.kill)], 40.0
    else:
        name, after_s = f"cut off for {CUT_S[fault]} s", CUT_S[fault] + 20.0
        lose = [(before_s, lambda: WORKER.link("down")), (before_s + CUT_S[fault], lambda: WORKER.link("up"))]
    asyncio.run(send(Load(), task, "", WARM_UP_S, arguments.in_flight, []))
    asyncio.run(send(load, task, fault, before_s + after_s, arguments.in_flight, lose))
    with Client(URL, key=KEY, timeout=httpx.Timeout(START_S)) as anole:
        listed = {version.version: version.weights.digest for version in anole.versions(fault)}
    kept = sum(listed.get(version) == digest for version, digest in load.acknowledged.items())
    good = load.good()
    before = sum(at < load.fault_s for at in good) / before_s
    back = rate_back_s(good, load.fault_s, load.ended_s, before)
    return [
        name,
        f"{before:.0f}",
        f"{longest_pause_s(good, load.fault_s, load.ended_s):.1f} s",
        f"{low_s(good, load.fault_s, load.ended_s, before)} s",
        f"not within {after_s:.0f} s" if back is None else f"{back:.1f} s",
        f"{kept} of {len(load.acknowledged)}",
        load.errors(),
    ]


@script
def main() -> None:
    """Measure and print the tables."""
    arguments = parse_arguments()
    task = draw(generated(3, 20, side=96, channels=1), np.random.default_rng(0), 3, 5, 10)
    record = machine(arguments.model)
    steady, faults, places = [], [], []
    with (
        network(STORE, (HEAD, WORKER)),
        tempfile.TemporaryDirectory(prefix="anole-ray-") as name,
        shared_store() as store,
    ):
        folder = Path(name)
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        cluster = {**os.environ, **CREDENTIALS, **own, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
        limits = {"ANOLE_KEY_RATE_PER_S": "1000000", "ANOLE_KEY_IN_FLIGHT": "10000", "ANOLE_DEMO": "false"}
        environment = {**cluster, **store, **limits, "ANOLE_WORKERS": "1", "ANOLE_BOOTSTRAP_KEY": KEY}
        ray = ["--engine", "ray", "--address", f"{HEAD.address}:6379"]

        def replicas(count: int) -> dict[str, str]:
            numbers = dict.fromkeys(("INGRESSES", "PREDICTORS", "ADAPTERS"), str(count))
            return {**environment, **{f"ANOLE_RAY_{kind}": number for kind, number in numbers.items()}}

        with serving(environment, folder, arguments.model):
            steady.append(steady_row("one process without Ray", task, arguments))
        for node in (HEAD, WORKER):
            start_ray(node, cluster, folder)
        with serving(replicas(1), folder, arguments.model, *ray):
            steady.append(steady_row("Ray, 1 predictor", task, arguments))
        for number, fault in enumerate(arguments.faults or [None]):
            if number:
                WORKER.kill()
                start_ray(WORKER, cluster, folder)
            with serving(replicas(2), folder, arguments.model, *ray):
                places.append(f"first node: {replicas_on(HEAD)}; second node: {replicas_on(WORKER)}")
                if not number:
                    steady.append(steady_row("Ray, 2 predictors", task, arguments))
                if fault:
                    faults.append(fault_row(fault, task, arguments))
                    places.append(
                        f"after `{fault}`: first node: {replicas_on(HEAD)}; second node: {replicas_on(WORKER)}"
                    )
    print(f"{machine_line(record)}; {arguments.in_flight} requests in flight, {arguments.seconds:g} s a row\n")
    print(markdown(["", "requests/s", "p50 ms", "p99 ms", "errors"], steady), end="\n\n")
    print("\n".join(places), end="\n\n")
    headings = [
        "second node",
        "good/s before",
        "longest without a good answer",
        "below half of the rate",
        "for the last time after",
    ]
    print(markdown([*headings, "acknowledged versions kept", "errors"], faults))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--seconds", 10.0, "duration of a row without a fault")
    parser.option("--in-flight", 4, "predictions at the same time", least=1)
    parser.option("--model", "surfaces", "name of a shipped checkpoint, or path to one")
    parser.option("--faults", ["cut", "killed", "cut-long"], "faults of the second node", nargs="*",
                  choices=["cut", "killed", "cut-long"])  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
