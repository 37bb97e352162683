"""Prediction throughput compared with LitServe on the same ONNX graph and the same number of workers. Target: 1.15x.

    python benchmarks/predict_vs_litserve.py [--data-root FOLDER] [--workers 1] [--rounds 5] [--seconds 10]  (needs wrk)

Both serve the same version to the same driver, wrk, with the same bytes: a form with one image, as our Python client
sends it. LitServe (`litserve_side.py`) batches and decodes in its workers. So there are two rows
for our service: decoding in separate processes, the default, and decoding in the worker. The services alternate, and
LitServe is suspended while the others are measured, because its workers poll even if they are idle. A service is only
measured if its answer to the first image has the same label and scores. Processor time is the total of all processes of
a service.
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

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, percentile, script
from benchmarks.fixtures import N_SHOT, N_WAY, draw, steel_or_generated
from benchmarks.http_load import CLIENT, Form, WrkResult, predict_request, publish_version, run_wrk, wrk_script
from benchmarks.running_service import (
    START_TIMEOUT_S,
    RunningService,
    ServiceNotStarted,
    add_options,
    chosen_options,
    serving,
)
from models.errors import AnoleError

LITSERVE, ISOLATED, INLINE = "LitServe", "Anole", "Anole, decoding in the worker"
BOUNDARY: Final = "0123456789abcdef0123456789abcdef"
WARM_UP_S: Final = 2
TOLERANCE: Final = 1e-4


class NotComparable(AnoleError):
    """The services give different answers."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """The version that all services serve.

    Attributes:
        weights: its file.
        temperature: divisor of the logits.
        labels: its classes in order.
    """

    weights: Path
    temperature: float
    labels: tuple[str, ...]


@script
def main() -> None:
    """Start all services, compare their answers, measure them alternately, and print the table."""
    arguments = parse_arguments()
    options = chosen_options(arguments)
    machine = options.machine()
    images = steel_or_generated(arguments.data_root)
    task = draw(images, np.random.default_rng(arguments.seed), N_WAY, N_SHOT, max_queries=10)
    forms = [form(content) for content in task.query_images()]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anole-wrk-")))
        requests = wrk_script(forms, "/predict", folder)
        services: dict[str, RunningService] = {}
        for name, processes in ((ISOLATED, "2"), (INLINE, "0")):
            chosen = replace(options, workers=arguments.workers, environment={"ANOLE_DECODER_PROCESSES": processes})
            services[name] = stack.enter_context(serving(chosen))
            publish_version(services[name].url, task.support)
        version = download(services[ISOLATED].url, folder / "weights.safetensors")
        services[LITSERVE] = stack.enter_context(litserve(version, arguments))
        check_same_answers(services, forms[0])
        rows = measure(services, requests, arguments)
    record = {"data": images.name, "machine": machine, "rounds": arguments.rounds, "seconds": arguments.seconds}
    record |= {"workers": arguments.workers, "batch_timeout": arguments.batch_timeout}
    record |= {"body_bytes_p50": int(np.median([len(form.body) for form in forms])), "rows": rows}
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--concurrency", [16, 1], "requests in flight")
    parser.option("--rounds", 5, "rounds in which the services alternate")
    parser.option("--workers", 1, "workers of each service")
    parser.option("--batch-timeout", 0.0, "seconds that LitServe waits for a full batch; 0 is its default")
    parser.option("--seconds", 8, "duration of one run of one service")
    parser.option("--seed", 0, "seed for the choice of images")
    parser.json()
    add_options(parser)
    return parser.parse_args()


def form(content: bytes) -> Form:
    """One image as the Python client sends it, with a fixed boundary."""
    request = predict_request("http://127.0.0.1", [content])
    boundary = request.headers["content-type"].partition("boundary=")[2]
    body = request.read().replace(boundary.encode(), BOUNDARY.encode())
    return Form(f"multipart/form-data; boundary={BOUNDARY}", body)


def download(url: str, path: Path) -> ServedVersion:
    """Download the version's weights and read its temperature and classes."""
    version = f"{url}/clients/{CLIENT}/versions/1"
    details = httpx.get(version).raise_for_status().json()
    path.write_bytes(httpx.get(f"{version}/weights").raise_for_status().content)
    return ServedVersion(path, details["report"]["temperature"] or 1.0, tuple(details["classes"]))


@contextmanager
def litserve(version: ServedVersion, options: argparse.Namespace) -> Iterator[RunningService]:
    """LitServe with the version, for the duration of the block.

    Raises:
        ServiceNotStarted: it ended or was not ready in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(__file__).with_name("litserve_side.py"))
    arguments = [str(port), str(options.workers), str(options.batch_timeout), options.model]
    arguments += [str(version.weights), str(version.temperature), *version.labels]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    log = version.weights.with_name("litserve.log")
    with log.open("w") as output:
        process = subprocess.Popen(  # not in a session of its own, which Linux may schedule apart from the others
            [sys.executable, program, *arguments], env=environment, stdout=output, stderr=output, process_group=0
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_TIMEOUT_S
        while not healthy(url):
            if process.poll() is not None or time.monotonic() > until:
                raise ServiceNotStarted(f"LitServe ended or was not ready in time:\n{log.read_text()[-2000:]}")
        yield RunningService(url, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # otherwise its worker outlives the first process
        process.wait()


@contextmanager
def suspended(group: int, condition: bool) -> Iterator[None]:
    """Suspend the processes of a group for the duration of the block, on one condition."""
    if condition:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def healthy(url: str) -> bool:
    """Whether LitServe is ready."""
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def check_same_answers(services: Mapping[str, RunningService], form: Form) -> None:
    """Compare the answers to one form.

    Raises:
        NotComparable: labels differ, or scores differ by more than `TOLERANCE`.
    """
    headers = {"Content-Type": form.content_type}
    answers = {}
    for name, service in services.items():
        answer = httpx.post(f"{service.url}/predict", content=form.body, headers=headers).raise_for_status().json()
        answers[name] = answer["predictions"][0] if "predictions" in answer else answer
    expected = answers[ISOLATED]
    for name, answer in answers.items():
        difference = max(abs(answer["scores"][label] - score) for label, score in expected["scores"].items())
        if answer["label"] != expected["label"] or difference > TOLERANCE:
            raise NotComparable(f"{name} answers {answer}, {ISOLATED} answers {expected}")


def measure(
    services: Mapping[str, RunningService], requests: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Medians over the rounds, one row per service and concurrency."""
    results: dict[tuple[int, str], list[WrkResult]] = {}
    for name, service in services.items():
        with suspended(services[LITSERVE].pid, name != LITSERVE):
            run_wrk(service.url, requests, max(arguments.concurrency), WARM_UP_S, service.pid)
    for _ in range(arguments.rounds):
        for concurrency in arguments.concurrency:
            for name, service in services.items():
                with suspended(services[LITSERVE].pid, name != LITSERVE):
                    result = run_wrk(service.url, requests, concurrency, arguments.seconds, service.pid)
                if result.refused:
                    raise NotComparable(f"{name} refused {result.refused} requests")
                results.setdefault((concurrency, name), []).append(result)
    return [{"concurrency": number, "service": name, **medians(runs)} for (number, name), runs in results.items()]


def medians(runs: Sequence[WrkResult]) -> dict[str, float]:
    """The median of each figure."""
    figures = [asdict(run) for run in runs]
    return {name: percentile([figure[name] for figure in figures], 0.5) for name in figures[0]}


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    baseline = {row["concurrency"]: row for row in record["rows"] if row["service"] == LITSERVE}
    columns = ("service", "in flight", "requests/s", "ratio", "p50 ms", "p99 ms", "CPU ms", "driver's core")
    rows = [
        (
            row["service"],
            str(row["concurrency"]),
            f"{row['requests_per_s']:.0f}",
            f"{row['requests_per_s'] / baseline[row['concurrency']]['requests_per_s']:.2f}",
            *(milliseconds([row[name]]) for name in ("p50_s", "p99_s", "cpu_s")),
            f"{100 * row['driver_share']:.0f} %",
        )
        for row in record["rows"]
    ]
    return "\n".join([
        f"{record['data']}; one image per form, median {record['body_bytes_p50']:,} bytes",
        machine_line(record["machine"]),
        f"{record['workers']} worker(s) each, ratio to LitServe with a batch timeout of {record['batch_timeout']:g} s",
        f"medians of {record['rounds']} alternating rounds of {record['seconds']} s",
        "",
        markdown(columns, rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
