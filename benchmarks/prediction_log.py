"""What the prediction log and a candidate cost a request: predictions of one image, without and with them, by turns.

    python benchmarks/prediction_log.py [--data-root FOLDER] [--requests 300] [--rounds 6]

One client of one service is switched between the sides, so that other load of the machine affects all alike. Prints
latency, the processor time of the service for each request, and their ratios to the side without a log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import numpy as np

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, percentile, script
from benchmarks.fixtures import N_SHOT, N_WAY, draw, steel_or_generated
from benchmarks.http_load import CLIENT, as_body, publish_version
from benchmarks.predict_latency import WARM_UP, Case, send
from benchmarks.running_service import add_options, chosen_options, serving
from service.client import AdaptOptions, Client

SIDES: Final[dict[str, Callable[[Client], object]]] = {
    "off": lambda anole: anole.change_settings(CLIENT, {"log_predictions": False}),
    "log": lambda anole: anole.change_settings(CLIENT, {"log_predictions": True}),
    "log and candidate": lambda anole: anole.move_alias(CLIENT, "candidate", 2),
}
"""How each side begins. The candidate ends when the alias names the live version."""


@script
def main() -> None:
    """Measure all sides and print the table."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--requests", 300, "requests of each side in a round")
    parser.option("--rounds", 6, "rounds in which the sides alternate")
    parser.option("--concurrency", 1, "requests in flight")
    add_options(parser)
    arguments = parser.parse_args()
    options = chosen_options(arguments)
    machine = options.machine()
    drawn = draw(steel_or_generated(arguments.data_root, 160), np.random.default_rng(0), N_WAY, N_SHOT)
    with serving(options) as service, Client(service.url) as anole:
        publish_version(service.url, drawn.support)
        anole.adapt(CLIENT, drawn.support, AdaptOptions(mode="replace", publish="never"))
        requests = [as_body(service.url, image) for image in drawn.query_images()]
        cases = {name: Case(name, requests, arguments.concurrency) for name in SIDES}
        for number in range(arguments.rounds):
            for name in list(SIDES) if number % 2 else reversed(list(SIDES)):
                SIDES[name](anole)
                asyncio.run(send(Case(name, requests, arguments.concurrency), service, WARM_UP))
                asyncio.run(send(cases[name], service, arguments.requests))
                anole.move_alias(CLIENT, "candidate", 1)
        counts = [line for line in anole.metrics().splitlines() if "_dropped_total " in line]
    print(machine_line(machine), end="\n\n")
    print(table(list(cases.values())))
    print("\n".join(["", *counts]))


def table(cases: list[Case]) -> str:
    """A row for each side; ratios are medians over rounds of the quotient within a round."""
    base, rows = cases[0], []
    for case in cases:
        cpu, base_cpu = cpu_by_round(case), cpu_by_round(base)
        size = len(case.seconds) // len(case.rates)
        medians, base_medians = (medians_by_round(each, size) for each in (case, base))
        rows.append(
            [
                case.name,
                milliseconds(case.seconds),
                milliseconds(case.seconds, 0.99),
                ratio(medians, base_medians),
                milliseconds(cpu),
                ratio(cpu, base_cpu),
            ]
        )
    return markdown(["side", "p50 ms", "p99 ms", "ratio of p50", "processor ms", "ratio"], rows)


def medians_by_round(case: Case, size: int) -> list[float]:
    """Median seconds of the requests of each round."""
    return [percentile(case.seconds[at : at + size], 0.5) for at in range(0, len(case.seconds), size)]


def cpu_by_round(case: Case) -> list[float]:
    """Processor seconds of the service for each request, by round."""
    return [share / rate for share, rate in zip(case.service_share, case.rates, strict=True)]


def ratio(values: list[float], base: list[float]) -> str:
    """The median of the quotients of the rounds."""
    return f"{percentile([value / other for value, other in zip(values, base, strict=True)], 0.5):.2f}"


if __name__ == "__main__":
    main()
