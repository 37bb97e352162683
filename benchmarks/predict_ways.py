"""Ways to predict images of several versions with one net at the same time, each with its own weights.

    python benchmarks/predict_ways.py [--data-root FOLDER] [--clients 1 4 16] [--device cpu|cuda]

Every way predicts the same images with the same versions, one image per version, and they alternate. Results are
compared with the plain way. In the last rows, one version has many images. On the CPU, the thread's processor time is
printed beside elapsed time, because it is more stable on a machine with other load.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.figures import machine, machine_line, markdown, percentile
from benchmarks.labelled_pngs import steel_or_generated
from benchmarks.running_service import ServiceOptions
from benchmarks.versions_made import Made, folded, made
from models.inference.onnx_predictor import OnnxPredictor
from models.inference.predict import predict_images
from models.inference.predictor import BatchPredictor, PredictionRequest
from models.inference.torch_predictor import TorchPredictor
from models.nets import Net, call_net, heads
from models.weights import Weights

Way = Callable[[], Sequence[Tensor]]
"""Probabilities of each version's images, on the CPU."""

PLAIN: Final = "one after another, torch"
GENERATED_IMAGES: Final = 30
MANY_IMAGES: Final = (1, 4, 16)


def main() -> None:
    """Measure and print the tables."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    found = machine(ServiceOptions(arguments.model, arguments.device, arguments.threads))
    images = steel_or_generated(arguments.data_root, 5, GENERATED_IMAGES)
    version = made(arguments.model, images, arguments.seed)
    record: dict[str, Any] = {"data": images.name, "machine": found, "rounds": arguments.rounds, "rows": []}
    for clients in arguments.clients:
        record["rows"] += compared(ways(version, clients, 1, arguments), clients, 1, arguments)
    for count in MANY_IMAGES:
        record["rows"] += compared(ways(version, 1, count, arguments), 1, count, arguments)
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None, help="folder with x_sdd.zip (default: generated)")
    parser.add_argument("--model", default="surfaces", help="shipped checkpoint, or path to one (default: surfaces)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    parser.add_argument("--threads", type=int, default=1, help="of one operation (default: 1)")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64], help="versions at once")
    parser.add_argument("--rounds", type=int, default=30, help="turns (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def ways(version: Made, clients: int, count: int, arguments: argparse.Namespace) -> dict[str, Way]:
    """Callables for each way, with weights loaded."""
    device = torch.device(arguments.device)
    net = version.net.to(device)
    versions = [version.folded(), *(dict(folded(other)) for other in version.others(clients - 1))]
    on_device = [{name: tensor.to(device) for name, tensor in one.items()} for one in versions]
    picks = torch.arange(clients * count) % len(version.images)
    images = version.images[picks].view(clients, count, *version.images.shape[1:])  # (clients, images, ...)
    there = images.to(device)
    stacked = {name: torch.stack([one[name] for one in on_device]) for name in on_device[0]}
    found: dict[str, Way] = {
        PLAIN: lambda: [
            predict_images(net, one, own).probabilities.cpu() for one, own in zip(on_device, there, strict=True)
        ],
        "grouped convolutions": lambda: apart(side_by_side(net, stacked, there, torch.contiguous_format)),
        "grouped convolutions, channels last": lambda: apart(side_by_side(net, stacked, there, torch.channels_last)),
        "vmap": lambda: apart(mapped(net, stacked, there)),
        "TorchPredictor: stacked anew each time": through(TorchPredictor(net, device), versions, images),
    }
    graph = version.checkpoint.onnx_graph
    if device.type == "cpu" and graph is not None:
        predictor = OnnxPredictor(graph, net.config, arguments.threads)
        found["OnnxPredictor: weights as inputs"] = through(predictor, versions, images)
    return found


def side_by_side(net: Net, stacked: Weights, images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """As many groups of a convolution as versions."""
    with torch.inference_mode():
        return heads.logits(stacked, call_net(net, stacked, images, memory_format=memory_format)).softmax(-1)


def mapped(net: Net, stacked: Weights, images: Tensor) -> Tensor:
    """torch.vmap over versions."""

    def one(weights: Weights, own: Tensor) -> Tensor:
        single = {name: tensor[None] for name, tensor in weights.items()}
        return heads.logits(single, call_net(net, single, own[None]))[0].softmax(-1)

    with torch.inference_mode():
        result: Tensor = torch.vmap(one)(dict(stacked), images)
        return result


def apart(together: Tensor) -> list[Tensor]:
    """(clients, images, n_way) on any device to one tensor a client on the CPU."""
    return list(together.cpu())


def through(forward: BatchPredictor, versions: Sequence[Weights], images: Tensor) -> Way:
    """The service's predictor."""
    asked = [
        PredictionRequest(forward.serving_weights(one), np.ascontiguousarray(own.numpy()))
        for one, own in zip(versions, images, strict=True)
    ]
    return lambda: [predicted.probabilities for predicted in forward.predict(asked)]


def compared(found: dict[str, Way], clients: int, count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the ways alternately; one row each."""
    expected = torch.cat(list(found[PLAIN]()))
    clock_s: dict[str, list[float]] = {name: [] for name in found}
    thread_s: dict[str, list[float]] = {name: [] for name in found}
    apart_by = {name: float((torch.cat(list(way())) - expected).abs().max()) for name, way in found.items()}
    for _ in range(arguments.rounds):
        for name, way in found.items():
            began, used = time.perf_counter(), time.thread_time()
            way()
            clock_s[name].append(time.perf_counter() - began)
            thread_s[name].append(time.thread_time() - used)
    return [
        {
            "clients": clients,
            "images": count,
            "way": name,
            "p50_s": percentile(clock_s[name], 0.5),
            "thread_p50_s": percentile(thread_s[name], 0.5),
            "largest_difference": apart_by[name],
        }
        for name in found
    ]


def table(record: dict[str, Any]) -> str:
    """Format the results as a table."""
    columns = ("versions x images", "way", "ms", "images/s", "times plain", "CPU ms", "CPU, times plain", "difference")
    rows = []
    for row in record["rows"]:
        plain = next(
            other for other in record["rows"]
            if (other["clients"], other["images"], other["way"]) == (row["clients"], row["images"], PLAIN)
        )  # fmt: skip
        rows.append((
            f"{row['clients']} x {row['images']}",
            row["way"],
            f"{1e3 * row['p50_s']:.2f}",
            f"{row['clients'] * row['images'] / row['p50_s']:.0f}",
            f"{plain['p50_s'] / row['p50_s']:.2f}",
            f"{1e3 * row['thread_p50_s']:.2f}",
            f"{plain['thread_p50_s'] / row['thread_p50_s']:.2f}",
            f"{row['largest_difference']:.0e}",
        ))  # fmt: skip
    return "\n".join([record["data"], machine_line(record["machine"]), "", markdown(columns, rows)])


if __name__ == "__main__":
    main()
