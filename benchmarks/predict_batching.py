"""Throughput and memory of prediction for a thousand clients in random order, compared with one client.

    python benchmarks/predict_batching.py [--data-root FOLDER] [--clients 1000]

Runs in one process, without HTTP and decoding, with the service's own predictor and 16 images per batch. The state-dict
row keeps the state dict of every client in memory and loads it into one net for each image, as a service with one net
and many checkpoints does. The rows alternate. The second table shows resident memory; each row is measured in a
separate process. All versions of a start share its frozen backbone, which counts for none of them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.figures import Parser, machine, machine_line, markdown, percentile, script
from benchmarks.fixtures import DEFAULT_MODEL, AdaptedCheckpoint, adapt_checkpoint, folded, steel_or_generated
from benchmarks.measuring import alternate, resident_bytes
from models.adaptation.adapt import Adapted
from models.inference.predict import BatchPredictor, PredictionRequest, ServingWeights
from models.nets import Net, call_net, heads

BATCH: Final = 16
ONE, MANY, STATE_DICTS = "one client", "many clients", "many clients, state dicts"
COPIES, SERVING = "copies of the net", "serving weights"


class PlainModule(nn.Module):
    """A version as an ordinary module: weights as parameters, statistics as buffers."""

    def __init__(self, net: Net, adapted: Adapted) -> None:
        super().__init__()
        self._net = (net,)  # in a tuple, so that its parameters are not registered here
        for name, tensor in adapted.weights.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(tensor.clone(), requires_grad=False))
        for name, tensor in adapted.statistics.items():
            self.register_buffer("of_" + name.replace(".", "_"), tensor.clone())
        self._names = tuple(adapted.weights), tuple(adapted.statistics)

    def forward(self, inputs: Tensor) -> Tensor:
        """Probabilities of float32 (batch, channels, side, side), or (batch, features) of a frozen backbone."""
        weights = {name: getattr(self, name.replace(".", "_"))[None] for name in self._names[0]}
        statistics = {name: getattr(self, "of_" + name.replace(".", "_"))[None] for name in self._names[1]}
        features = call_net(self._net[0], weights, inputs[None], statistics)
        return heads.logits(weights, features)[0].softmax(-1)


@script
def main() -> None:
    """Measure and print the tables; with --hold, measure the memory of one row."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    images = steel_or_generated(arguments.data_root)
    version = adapt_checkpoint(arguments.model, images, arguments.seed)
    if arguments.hold:
        print(json.dumps(memory_here(version, arguments.hold, arguments.copies)))
        return
    record: dict[str, Any] = {"data": images.name, "machine": machine(arguments.model), "clients": arguments.clients}
    record["rounds"] = arguments.rounds
    record["speed"] = speeds(version, arguments)
    record["memory"] = [memory_of(kind, arguments) for kind in (COPIES, SERVING)]
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--model", DEFAULT_MODEL, "name of a shipped checkpoint, or path to one")
    parser.option("--clients", 1000, "clients in random order")
    parser.option("--copies", 1000, "versions in memory for the second table")
    parser.option("--images", 480, "images of each row per round")
    parser.option("--rounds", 9, "rounds in which the rows alternate")
    parser.option("--seed", 0, "seed of images and order")
    parser.json()
    parser.add_argument("--hold", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def speeds(version: AdaptedCheckpoint, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds per image of each method."""
    generator, count = np.random.default_rng(arguments.seed), arguments.images
    rounds = []
    for _ in range(arguments.rounds):
        clients = generator.integers(arguments.clients, size=count).tolist()
        rounds.append((clients, version.images[torch.from_numpy(generator.integers(len(version.images), size=count))]))
    sides = {
        name: lambda number, method=method: method(*rounds[number])
        for name, method in methods(version, arguments.clients).items()
    }
    times = alternate(sides, arguments.rounds, warm_up=0, processor_clock=time.thread_time)
    return [
        {
            "method": name,
            "p50_s": percentile(own.elapsed_s, 0.5) / count,
            "thread_p50_s": percentile(own.processor_s, 0.5) / count,
        }
        for name, own in times.items()
    ]


def methods(version: AdaptedCheckpoint, clients: int) -> dict[str, Callable[[list[int], Tensor], None]]:
    """The methods, with the weights that they keep in memory."""
    predictor = service_predictor(version)
    serving: list[ServingWeights] = []
    state_dicts: list[dict[str, Tensor]] = []
    for adapted in itertools.chain([version.adapted], version.more_versions(clients - 1)):
        serving.append(predictor.serving_weights(folded(adapted)))
        state_dicts.append(PlainModule(version.net, adapted).state_dict())
    plain = PlainModule(version.net, version.adapted).eval()

    def in_batches(clients: list[int], images: Tensor) -> None:
        for first in range(0, len(clients), BATCH):
            batch = version.inputs(images[first : first + BATCH]).numpy()
            rows_by_client: dict[int, list[int]] = {}
            for row, client in enumerate(clients[first : first + BATCH]):
                rows_by_client.setdefault(client, []).append(row)
            predictor.predict(
                [PredictionRequest(serving[client], batch[rows]) for client, rows in rows_by_client.items()]
            )

    def one_by_one(clients: list[int], images: Tensor) -> None:
        with torch.inference_mode():
            for client, image in zip(clients, images, strict=True):
                plain.load_state_dict(state_dicts[client])
                plain(version.inputs(image[None]))

    return {
        ONE: lambda clients, images: in_batches([0] * len(clients), images),
        MANY: in_batches,
        STATE_DICTS: one_by_one,
    }


def service_predictor(version: AdaptedCheckpoint) -> BatchPredictor:
    """The predictor of a shipped checkpoint."""
    predictor = version.predictor()
    assert predictor is not None
    return predictor


def memory_of(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the memory of one kind of weights in a separate process."""
    options = ["--hold", kind, "--copies", str(arguments.copies), "--model", arguments.model]
    options += ["--seed", str(arguments.seed)]
    if arguments.data_root is not None:
        options += ["--data-root", str(arguments.data_root)]
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def memory_here(version: AdaptedCheckpoint, kind: str, count: int) -> dict[str, Any]:
    """Keep `count` versions in memory; return the resident memory per version."""
    predictor = service_predictor(version)
    versions: list[nn.Module | ServingWeights] = []
    before = settled_bytes()
    for adapted in version.more_versions(count):
        weights = PlainModule(version.net, adapted) if kind == COPIES else predictor.serving_weights(folded(adapted))
        versions.append(weights)
    return {"kind": kind, "count": count, "bytes_each": (settled_bytes() - before) / count}


def settled_bytes() -> int:
    """Resident memory of this process after freed memory was returned to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes([os.getpid()])


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    speed = {row["method"]: row for row in record["speed"]}

    def ratios(key: str, row: dict[str, Any]) -> Sequence[str]:
        return [f"{speed[reference][key] / row[key]:.2f}" for reference in (ONE, STATE_DICTS)]

    rows = [
        (
            name,
            f"{1 / row['p50_s']:.0f}",
            *ratios("p50_s", row),
            f"{1e3 * row['thread_p50_s']:.3f}",
            *ratios("thread_p50_s", row),
        )
        for name, row in speed.items()
    ]
    columns = (
        "method", "images/s", "ratio to one client", "ratio to state dicts", "CPU ms per image",
        "CPU, ratio to one client", "CPU, ratio to state dicts",
    )  # fmt: skip
    copy_bytes = record["memory"][0]["bytes_each"]
    memory = [
        (row["kind"], f"{row['count']:,}", f"{row['bytes_each'] / 1000:.0f}", f"{row['bytes_each'] / copy_bytes:.3f}")
        for row in record["memory"]
    ]
    return "\n".join([
        f"{record['data']}; {record['clients']} clients, medians of {record['rounds']} alternating rounds",
        machine_line(record["machine"]),
        "",
        markdown(columns, rows),
        "",
        markdown(("in memory", "clients", "resident kB per client", "ratio to a copy"), memory),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
