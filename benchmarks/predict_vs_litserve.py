"""Prediction throughput of one worker compared with LitServe on the same net. Target: 3x.

    python benchmarks/predict_vs_litserve.py [--data-root FOLDER] [--rounds 5] [--seconds 10]     (needs wrk)

Both serve the same version to the same driver, wrk, with the same bytes: a form with one image, as our Python client
sends it. LitServe (`litserve_side.py`) has one worker with batching and decodes in that worker. So there are two rows
for our service: decoding in separate processes, the default, and decoding in the worker. The services alternate. A
service is only measured if its answer to the first image has the same label and scores. Processor time is the total of
all processes of a service.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.figures import machine, machine_line, markdown, percentile
from benchmarks.labelled_pngs import draw, steel_or_generated
from benchmarks.running_service import RunningService, ServiceNotStarted, add_options, chosen_options, serving
from benchmarks.wrk import Driven, Form, drive, script
from models.errors import AnoleError
from service.client import AdaptOptions, Client
from service.client import requests as client_requests

CLIENT: Final = "bench"
N_WAY, N_SHOT, GENERATED_IMAGES = 5, 10, 30
LITSERVE, ISOLATED, INLINE = "LitServe", "Anole", "Anole, decoding in the worker"
START_LIMIT_S: Final = 120.0
WARM_UP_S: Final = 2
TOLERANCE: Final = 1e-4


class NotTheSame(AnoleError):
    """The services give different answers, so they cannot be compared."""


@dataclass(frozen=True, slots=True)
class Served:
    """The version that all of them serve.

    Attributes:
        weights: its file.
        temperature: what its logits are divided by.
        labels: its classes in their order.
    """

    weights: Path
    temperature: float
    labels: tuple[str, ...]


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
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 1], help="in flight (default: 16 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (default: 5)")
    parser.add_argument("--seconds", type=int, default=8, help="of one turn of one service (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_options(parser)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start all services, check that their answers agree, drive them alternately."""
    options = chosen_options(arguments)
    found = machine(options)
    images = steel_or_generated(arguments.data_root, N_WAY, GENERATED_IMAGES)
    task = draw(images, np.random.default_rng(arguments.seed), N_WAY, N_SHOT, max_queries=10)
    forms = [as_form(content) for contents in task.queries.values() for content in contents]
    with ExitStack() as open_until_end:
        folder = Path(open_until_end.enter_context(tempfile.TemporaryDirectory(prefix="anole-wrk-")))
        requests = script(forms, "/predict", folder)
        services: dict[str, RunningService] = {}
        for name, processes in ((ISOLATED, "2"), (INLINE, "0")):
            chosen = replace(options, environment={"ANOLE_DECODER_PROCESSES": processes})
            services[name] = open_until_end.enter_context(serving(chosen))
            with Client(services[name].url) as anole:
                anole.adapt(CLIENT, task.support, AdaptOptions(mode="replace", publish="always"))
        version = downloaded(services[ISOLATED].url, folder / "weights.safetensors")
        services[LITSERVE] = open_until_end.enter_context(litserve(arguments.model, version))
        see_that_they_answer_alike(services, forms[0])
        rows = driven(services, requests, arguments)
    record = {"data": images.name, "machine": found, "rounds": arguments.rounds, "seconds": arguments.seconds}
    return {**record, "body_bytes_p50": int(np.median([len(form.body) for form in forms])), "rows": rows}


def as_form(content: bytes) -> Form:
    """One image as the Python client sends it."""
    with httpx.Client(base_url="http://127.0.0.1") as http:
        form = client_requests.predict(CLIENT, [content])
        request = http.build_request(form.method, form.path, **form.content)
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    body = request.read().replace(boundary, b"0123456789abcdef0123456789abcdef")
    return Form("multipart/form-data; boundary=0123456789abcdef0123456789abcdef", body)


def downloaded(url: str, path: Path) -> Served:
    """The downloaded weights of the version, and its temperature."""
    version = f"{url}/clients/{CLIENT}/versions/1"
    details = httpx.get(version).raise_for_status().json()
    path.write_bytes(httpx.get(f"{version}/weights").raise_for_status().content)
    return Served(path, details["report"]["temperature"] or 1.0, tuple(details["classes"]))


@contextmanager
def litserve(checkpoint: str, version: Served) -> Iterator[RunningService]:
    """Context manager for LitServe with the version.

    Raises:
        ServiceNotStarted: it did not become ready.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(__file__).with_name("litserve_side.py"))
    arguments = [str(port), checkpoint, str(version.weights), str(version.temperature), *version.labels]
    code = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": code}
    log = version.weights.with_name("litserve.log")
    with log.open("w") as words:
        process = subprocess.Popen(
            [sys.executable, program, *arguments], env=environment, stdout=words, stderr=words, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_LIMIT_S
        while not healthy(url):
            if process.poll() is not None or time.monotonic() > until:
                raise ServiceNotStarted(f"LitServe ended, or was not ready in time:\n{log.read_text()[-2000:]}")
        yield RunningService(url, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its worker outlives the first process otherwise
        process.wait()


def healthy(url: str) -> bool:
    """Whether LitServe is ready."""
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def see_that_they_answer_alike(services: Mapping[str, RunningService], form: Form) -> None:
    """Raise NotTheSame if labels differ, or scores differ by more than `TOLERANCE`."""
    headers = {"Content-Type": form.content_type}
    answers = {}
    for name, service in services.items():
        said = httpx.post(f"{service.url}/predict", content=form.body, headers=headers).raise_for_status().json()
        answers[name] = said["predictions"][0] if "predictions" in said else said
    first = answers[ISOLATED]
    for name, said in answers.items():
        apart = max(abs(said["scores"][label] - score) for label, score in first["scores"].items())
        if said["label"] != first["label"] or apart > TOLERANCE:
            raise NotTheSame(f"{name} says {said}, {ISOLATED} says {first}")


def driven(
    services: Mapping[str, RunningService], requests: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Medians over rounds, one row per service and concurrency."""
    seen: dict[tuple[int, str], list[Driven]] = {}
    for service in services.values():
        drive(service.url, requests, max(arguments.concurrency), WARM_UP_S, service.pid)
    for _ in range(arguments.rounds):
        for many in arguments.concurrency:
            for name, service in services.items():
                once = drive(service.url, requests, many, arguments.seconds, service.pid)
                if once.refused:
                    raise NotTheSame(f"{name} refused {once.refused} requests: what it answered is not comparable")
                seen.setdefault((many, name), []).append(once)
    return [{"concurrency": many, "service": name, **medians(runs)} for (many, name), runs in seen.items()]


def medians(runs: Sequence[Driven]) -> dict[str, float]:
    """Median of each value."""
    figures = [asdict(run) for run in runs]
    return {name: percentile([figure[name] for figure in figures], 0.5) for name in figures[0]}


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    other = {row["concurrency"]: row for row in record["rows"] if row["service"] == LITSERVE}
    columns = (
        "service",
        "in flight",
        "requests/s",
        "times LitServe",
        "p50 ms",
        "p99 ms",
        "CPU ms",
        "driver",
    )
    rows = [
        (
            row["service"],
            str(row["concurrency"]),
            f"{row['requests_a_second']:.0f}",
            f"{row['requests_a_second'] / other[row['concurrency']]['requests_a_second']:.2f}",
            f"{1e3 * row['p50_s']:.2f}",
            f"{1e3 * row['p99_s']:.2f}",
            f"{1e3 * row['cpu_s']:.2f}",
            f"{100 * row['driver_share']:.0f} %",
        )
        for row in record["rows"]
    ]
    lines = [
        f"{record['data']}; one image a form, {record['body_bytes_p50']:,} bytes at the median",
        machine_line(record["machine"]),
        f"medians of {record['rounds']} rounds of {record['seconds']} s by turns; driven by wrk",
    ]
    return "\n".join([*lines, "", markdown(columns, rows)])


if __name__ == "__main__":
    main()
