"""What a job costs: adaptations without a key, with an Idempotency-Key and as a job, by turns, and single transactions.

python benchmarks/job_cost.py [--model NAME|PATH] [--requests 25] [--folder FOLDER]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, script
from benchmarks.fixtures import draw, steel_or_generated
from benchmarks.running_service import START_TIMEOUT_S, add_options, chosen_options, serving
from models.errors import AnoleError
from service.domain.job import JobRecord, JobUpdate, Progress, new_job_id
from service.store.open_store import StoreLocation, open_store

KINDS: Final[dict[str, Callable[[int], Mapping[str, str]]]] = {
    "without a key": lambda _number: {},
    "with a key": lambda number: {"Idempotency-Key": str(number)},
    "as a job": lambda _number: {"Prefer": "respond-async"},
}
"""The headers of each kind of request."""

_CLASSES, _SHOTS = 3, 5


@script
def main() -> None:
    """Measure and print two tables."""
    parser = Parser(__doc__)
    parser.option("--requests", 25, "requests of each kind")
    add_options(parser)
    arguments = parser.parse_args()
    options = chosen_options(arguments)
    support = draw(steel_or_generated(None, 160), np.random.default_rng(0), _CLASSES, _SHOTS).support
    files = [("samples", (sample.name, sample.content)) for sample in support]
    form = {"mode": "replace", "labels": [sample.label for sample in support]}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with serving(options) as service, httpx.Client(base_url=service.url, timeout=START_TIMEOUT_S) as web:
        for number in range(-1, arguments.requests):  # the first of each kind is not counted
            for kind, headers in KINDS.items():
                began = time.perf_counter()
                fields = {**form, "client": kind.replace(" ", "-")}
                answer = web.post("/adapt", data=fields, files=files, headers=headers(number)).raise_for_status()
                if answer.status_code == httpx.codes.ACCEPTED:
                    events = web.get(f"{answer.headers['location']}/events").text
                    if "event: done" not in events:
                        raise AnoleError(f"the job failed: {events}")
                seconds[kind] += [time.perf_counter() - began] if number >= 0 else []
    print(machine_line(options.machine()), end="\n\n")
    print(table("adaptation of 15 images", seconds), end="\n\n")
    print(table("transaction", transactions(arguments.folder)))


def transactions(folder: Path | None, count: int = 40) -> Mapping[str, list[float]]:
    """Seconds of each transaction of a job in an embedded store of its own."""
    seconds: dict[str, list[float]] = {"add": [], "renew": [], "read": [], "end": []}
    with tempfile.TemporaryDirectory(dir=folder) as data, open_store(StoreLocation(Path(data) / "data")) as store:
        jobs = store.catalog.jobs
        for step in range(count):
            job_id, progress = new_job_id(), Progress("adapt", step, count, 0.5)
            running = JobUpdate(job_id, "running", progress)
            calls: dict[str, Callable[[], object]] = {
                "add": partial(jobs.add, JobRecord(job_id, "line", "worker", None, datetime.now(UTC))),
                "renew": partial(jobs.renew, "worker", [running]),
                "read": partial(jobs.get, job_id),
                "end": partial(jobs.end, replace(running, state="failed")),
            }
            for name, run in calls.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
    return seconds


def table(what: str, seconds: Mapping[str, list[float]]) -> str:
    """A row for each kind."""
    rows = [
        [name, milliseconds([min(each)]), milliseconds(each), milliseconds(each, 0.99)]
        for name, each in seconds.items()
    ]
    return markdown([what, "best ms", "p50 ms", "p99 ms"], rows)


if __name__ == "__main__":
    main()
