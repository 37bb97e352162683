"""Ways to predict images of several versions with one net at the same time, each with its own weights.

    python benchmarks/predict_ways.py [--data-root FOLDER] [--clients 1 4 16] [--device cpu|cuda]

A frozen backbone runs before, and only what follows it is measured. Every way predicts the same images with the same
versions, one image per version, and they alternate. Results are compared with the plain way. In the last rows, one
version has many images. On the CPU, the thread's processor time is printed beside elapsed time, because it is more
stable on a machine with other load.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.figures import Parser, machine, machine_line, markdown, percentile, script
from benchmarks.fixtures import DEFAULT_MODEL, AdaptedCheckpoint, adapt_checkpoint, folded, steel_or_generated
from benchmarks.measuring import alternate, ignoring_number
from models.inference.predict import BatchPredictor, PredictionRequest, TorchPredictor, predict_images
from models.nets import Net, call_net, heads
from models.weights import Weights

Way = Callable[[], Sequence[Tensor]]
"""Returns the probabilities of each version's images, on the CPU."""

PLAIN: Final = "one after another, torch"
IMAGE_COUNTS: Final = (1, 4, 16)


@script
def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    record: dict[str, Any] = {"machine": machine(arguments.model, arguments.device, arguments.threads)}
    images = steel_or_generated(arguments.data_root)
    version = adapt_checkpoint(arguments.model, images, arguments.seed)
    record |= {"data": images.name, "rounds": arguments.rounds, "rows": []}
    for clients, count in [(clients, 1) for clients in arguments.clients] + [(1, count) for count in IMAGE_COUNTS]:
        record["rows"] += compare(ways(version, clients, count, arguments), clients, count, arguments.rounds)
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--model", DEFAULT_MODEL, "name of a shipped checkpoint, or path to one")
    parser.option("--device", "cpu", "device", choices=("cpu", "cuda"))
    parser.option("--threads", 1, "threads per operation")
    parser.option("--clients", [4, 16, 64], "versions at the same time")
    parser.option("--rounds", 30, "rounds in which the ways alternate")
    parser.option("--seed", 0, "seed for the choice of images")
    parser.json()
    return parser.parse_args()


def ways(version: AdaptedCheckpoint, clients: int, count: int, arguments: argparse.Namespace) -> dict[str, Way]:
    """Each way with its weights in place."""
    device = torch.device(arguments.device)
    net = version.net.to(device)
    versions = [dict(folded(adapted)) for adapted in (version.adapted, *version.more_versions(clients - 1))]
    on_device = [{name: tensor.to(device) for name, tensor in weights.items()} for weights in versions]
    inputs = version.inputs(version.images)
    picks = torch.arange(clients * count) % len(inputs)
    images = inputs[picks].view(clients, count, *inputs.shape[1:])  # (clients, images, ...)
    there = images.to(device)
    stacked = {name: torch.stack([weights[name] for weights in on_device]) for name in on_device[0]}
    found: dict[str, Way] = {
        PLAIN: lambda: [
            predict_images(net, weights, own).probabilities.cpu() for weights, own in zip(on_device, there, strict=True)
        ],
        "grouped convolutions": lambda: list(grouped(net, stacked, there, torch.contiguous_format).cpu()),
        "grouped convolutions, channels last": lambda: list(grouped(net, stacked, there, torch.channels_last).cpu()),
        "vmap": lambda: list(mapped(net, stacked, there).cpu()),
        "TorchPredictor: weights stacked each time": by_predictor(TorchPredictor(net, device), versions, images),
    }
    predictor = version.predictor(arguments.threads)
    if device.type == "cpu" and predictor is not None:
        found[f"{type(predictor).__name__}: the service's way"] = by_predictor(predictor, versions, images)
    return found


def grouped(net: Net, stacked: Weights, images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Probabilities (clients, images, n_way) by convolutions with one group per version."""
    with torch.inference_mode():
        return heads.logits(stacked, call_net(net, stacked, images, memory_format=memory_format)).softmax(-1)


def mapped(net: Net, stacked: Weights, images: Tensor) -> Tensor:
    """Probabilities (clients, images, n_way) by torch.vmap over versions."""

    def predict(weights: Weights, own: Tensor) -> Tensor:
        single = {name: tensor[None] for name, tensor in weights.items()}
        features = call_net(net, single, own[None], memory_format=torch.contiguous_format)  # vmap has no channels last
        return heads.logits(single, features)[0].softmax(-1)

    with torch.inference_mode():
        result: Tensor = torch.vmap(predict)(dict(stacked), images)
        return result


def by_predictor(predictor: BatchPredictor, versions: Sequence[Weights], images: Tensor) -> Way:
    """Prediction by a predictor of the service."""
    requests = [
        PredictionRequest(predictor.serving_weights(weights), np.ascontiguousarray(own.numpy()))
        for weights, own in zip(versions, images, strict=True)
    ]
    return lambda: [predictions.probabilities for predictions in predictor.predict(requests)]


def compare(found: dict[str, Way], clients: int, count: int, rounds: int) -> list[dict[str, Any]]:
    """Measure the ways alternately; one row each."""
    expected = torch.cat(list(found[PLAIN]()))
    difference = {name: float((torch.cat(list(way())) - expected).abs().max()) for name, way in found.items()}
    sides = {name: ignoring_number(way) for name, way in found.items()}
    times = alternate(sides, rounds, warm_up=0, processor_clock=time.thread_time)
    return [
        {
            "clients": clients,
            "images": count,
            "way": name,
            "p50_s": percentile(own.elapsed_s, 0.5),
            "thread_p50_s": percentile(own.processor_s, 0.5),
            "largest_difference": difference[name],
        }
        for name, own in times.items()
    ]


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    columns = ("versions x images", "way", "ms", "images/s", "ratio", "CPU ms", "CPU ratio", "difference")
    plain = {(row["clients"], row["images"]): row for row in record["rows"] if row["way"] == PLAIN}
    rows = []
    for row in record["rows"]:
        reference = plain[row["clients"], row["images"]]
        rows.append((
            f"{row['clients']} x {row['images']}",
            row["way"],
            f"{1e3 * row['p50_s']:.2f}",
            f"{row['clients'] * row['images'] / row['p50_s']:.0f}",
            f"{reference['p50_s'] / row['p50_s']:.2f}",
            f"{1e3 * row['thread_p50_s']:.2f}",
            f"{reference['thread_p50_s'] / row['thread_p50_s']:.2f}",
            f"{row['largest_difference']:.0e}",
        ))  # fmt: skip
    return "\n".join([record["data"], machine_line(record["machine"]), "", markdown(columns, rows)])


if __name__ == "__main__":
    main()
