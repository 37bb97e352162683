"""Throughput and memory of prediction for a thousand clients in random order, compared with one client.

    python benchmarks/predict_batching.py [--data-root FOLDER] [--clients 1000]

Runs in one process, without HTTP and decoding, through the service's own predictor, 16 images to a batch. The
state-dict row keeps every client's state dict in memory and loads it into one net for each image, as a service with
one net and many checkpoints does. The rows take turns. The second table shows resident memory; each row is measured in
a process of its own.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.figures import machine, machine_line, markdown, percentile
from benchmarks.labelled_pngs import steel_or_generated
from benchmarks.running_service import ServiceOptions
from benchmarks.versions_made import Made, folded, made
from models.adaptation.adapt import Adapted
from models.inference.onnx_predictor import OnnxPredictor
from models.inference.predictor import PredictionRequest, ServingWeights
from models.nets import Net, call_net, heads

BATCH: Final = 16
GENERATED_IMAGES: Final = 30
ONE, MANY, LOADED = "one client", "many clients", "many clients, state dicts"
COPIES, SERVING = "copies of the net", "serving weights"


class Plain(nn.Module):
    """A version as an ordinary module."""

    def __init__(self, net: Net, adapted: Adapted) -> None:
        super().__init__()
        self._net = (net,)  # in a tuple, so that its own parameters are no part of this
        for name, tensor in adapted.weights.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(tensor.clone(), requires_grad=False))
        for name, tensor in adapted.statistics.items():
            self.register_buffer("of_" + name.replace(".", "_"), tensor.clone())
        self._names = tuple(adapted.weights), tuple(adapted.statistics)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities of float32 (batch, channels, side, side)."""
        weights = {name: getattr(self, name.replace(".", "_"))[None] for name in self._names[0]}
        statistics = {name: getattr(self, "of_" + name.replace(".", "_"))[None] for name in self._names[1]}
        features = call_net(self._net[0], weights, images[None], statistics)
        return heads.logits(weights, features)[0].softmax(-1)


def main() -> None:
    """Measure and print the tables; with --hold, measure the memory of one row."""
    arguments = parsed()
    torch.set_num_threads(1)
    images = steel_or_generated(arguments.data_root, 5, GENERATED_IMAGES)
    version = made(arguments.model, images, arguments.seed)
    if arguments.hold:
        print(json.dumps(grown(version, arguments.hold, arguments.count)))
        return
    found = machine(ServiceOptions(arguments.model))
    record: dict[str, Any] = {"data": images.name, "machine": found, "clients": arguments.clients}
    record["rounds"] = arguments.rounds
    record["speed"] = speeds(version, arguments)
    record["memory"] = [held(kind, arguments) for kind in (COPIES, SERVING)]
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None, help="folder with x_sdd.zip (default: generated)")
    parser.add_argument("--model", default="surfaces", help="shipped checkpoint, or path to one (default: surfaces)")
    parser.add_argument("--clients", type=int, default=1000, help="that take turns at random (default: 1000)")
    parser.add_argument("--copies", type=int, default=1000, help="versions held for the memory table (default: 1000)")
    parser.add_argument("--images", type=int, default=480, help="of each way in a round (default: 480)")
    parser.add_argument("--rounds", type=int, default=9, help="turns (default: 9)")
    parser.add_argument("--seed", type=int, default=0, help="of images and turns (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--hold", default="", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def speeds(version: Made, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images a second of each way, by turns."""
    ways = built(version, arguments.clients)
    draws = np.random.default_rng(arguments.seed)
    clock_s: dict[str, list[float]] = {name: [] for name in ways}
    thread_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        clients = draws.integers(arguments.clients, size=arguments.images).tolist()
        images = version.images[torch.from_numpy(draws.integers(len(version.images), size=arguments.images))]
        for name, way in ways.items():
            began, used = time.perf_counter(), time.thread_time()
            way(clients, images)
            clock_s[name].append((time.perf_counter() - began) / arguments.images)
            thread_s[name].append((time.thread_time() - used) / arguments.images)
    return [
        {"way": name, "p50_s": percentile(clock_s[name], 0.5), "thread_p50_s": percentile(thread_s[name], 0.5)}
        for name in ways
    ]


def built(version: Made, clients: int) -> dict[str, Callable[[list[int], Tensor], None]]:
    """The ways, and what they keep in memory."""
    predictor = onnx_predictor(version)
    serving: list[ServingWeights] = []
    dicts: list[dict[str, Tensor]] = []
    for adapted in itertools.chain([version.adapted], version.others(clients - 1)):
        serving.append(predictor.serving_weights(folded(adapted)))
        dicts.append(Plain(version.net, adapted).state_dict())
    plain = Plain(version.net, version.adapted).eval()

    def in_batches(clients: list[int], images: Tensor) -> None:
        for first in range(0, len(clients), BATCH):
            batch = images[first : first + BATCH].numpy()
            mine: dict[int, list[int]] = {}
            for place, client in enumerate(clients[first : first + BATCH]):
                mine.setdefault(client, []).append(place)
            predictor.predict([PredictionRequest(serving[client], batch[places]) for client, places in mine.items()])

    def one_by_one(clients: list[int], images: Tensor) -> None:
        with torch.inference_mode():
            for client, image in zip(clients, images, strict=True):
                plain.load_state_dict(dicts[client])
                plain(image[None])

    return {
        ONE: lambda clients, images: in_batches([0] * len(clients), images),
        MANY: in_batches,
        LOADED: one_by_one,
    }


def onnx_predictor(version: Made) -> OnnxPredictor:
    """The predictor of a shipped checkpoint."""
    assert version.checkpoint.onnx_graph is not None
    return OnnxPredictor(version.checkpoint.onnx_graph, version.net.config)


def held(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the memory of one kind in a new process."""
    asked = [
        "--hold",
        kind,
        "--count",
        str(arguments.copies),
        "--model",
        arguments.model,
        "--seed",
        str(arguments.seed),
    ]
    if arguments.data_root is not None:
        asked += ["--data-root", str(arguments.data_root)]
    done = subprocess.run([sys.executable, __file__, *asked], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def grown(version: Made, kind: str, count: int) -> dict[str, Any]:
    """Resident memory per version with `count` versions in memory."""
    predictor = onnx_predictor(version)
    versions: list[nn.Module | ServingWeights] = []
    before = resident_bytes()
    for adapted in version.others(count):
        of_kind = Plain(version.net, adapted) if kind == COPIES else predictor.serving_weights(folded(adapted))
        versions.append(of_kind)
    return {"kind": kind, "count": count, "bytes_each": (resident_bytes() - before) / count}


def resident_bytes() -> int:
    """Of this process, from /proc, once what is free has been given back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    speed = {row["way"]: row for row in record["speed"]}
    rows = [
        (
            name,
            f"{1 / row['p50_s']:.0f}",
            f"{speed[ONE]['p50_s'] / row['p50_s']:.2f}",
            f"{speed[LOADED]['p50_s'] / row['p50_s']:.2f}",
            f"{1e3 * row['thread_p50_s']:.3f}",
            f"{speed[ONE]['thread_p50_s'] / row['thread_p50_s']:.2f}",
            f"{speed[LOADED]['thread_p50_s'] / row['thread_p50_s']:.2f}",
        )
        for name, row in speed.items()
    ]
    columns = ("way", "images/s", "times one client", "times state dicts", "CPU ms an image", "CPU: one", "CPU: dicts")
    full = record["memory"][0]["bytes_each"]
    memory = [
        (row["kind"], f"{row['count']:,}", f"{row['bytes_each'] / 1000:.0f}", f"{row['bytes_each'] / full:.3f}")
        for row in record["memory"]
    ]
    return "\n".join([
        f"{record['data']}; {record['clients']} clients, medians of {record['rounds']} rounds by turns",
        machine_line(record["machine"]),
        "",
        markdown(columns, rows),
        "",
        markdown(("held", "clients", "resident kB each", "times a copy"), memory),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
