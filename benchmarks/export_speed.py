"""Milliseconds for one image: how the service predicts it, and every format of exported file.

    python benchmarks/export_speed.py [--model efficientnet-lite0] [--side 240] [--images 8] [--rounds 15]

All take turns on the same images, one image at a time, on one thread: from pixels to probabilities and verdict. Times
are medians over the rounds, in milliseconds per image. `service` is what POST /predict computes after decoding, without
HTTP. Differences are the largest of a probability to that of the service.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.figures import Parser, machine, machine_line, markdown, script
from benchmarks.fixtures import Draw, draw, generated
from benchmarks.measuring import CPU, Times, alternate, ignoring_number
from models.checkpoint import load_checkpoint
from models.images.preprocessing import decode
from models.inference.exports import formats
from models.inference.exports.file import Description
from models.inference.exports.version import build_graph
from models.nets import BackboneNet
from service.runtime.loaded_checkpoint import LoadedCheckpoint

N_WAY: Final = 3
N_SHOT: Final = 10

Scores = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Side:
    """One way to predict.

    Attributes:
        name: row of the table.
        predict: returns the probabilities of all images, (images, n_way), which it predicts one by one.
        size_bytes: of the file; 0 without one.
    """

    name: str
    predict: Callable[[], Scores]
    size_bytes: int = 0


@script
def main() -> None:
    """Time every side and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    print(machine_line(machine(arguments.model)))
    print()
    images = generated(N_WAY, N_SHOT + arguments.images, side=arguments.side, channels=3)
    task = draw(images, np.random.default_rng(0), N_WAY, N_SHOT, arguments.images)
    sides = list(every_side(LoadedCheckpoint(load_checkpoint(arguments.model), CPU), task))
    times = alternate({side.name: ignoring_number(side.predict) for side in sides}, arguments.rounds)
    expected = sides[0].predict()
    headings = ("format", "ms per image", "processor ms per image", "largest difference", "file, MB")
    print(markdown(headings, [row(side, times[side.name], expected) for side in sides]))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--model", "efficientnet-lite0", "name of a shipped checkpoint, or path to one")
    parser.option("--side", 240, "height and width of the images in pixels", least=16)
    parser.option("--images", 8, "images per class, which are predicted one by one", least=1)
    parser.option("--rounds", 15, "timed rounds", least=1)
    return parser.parse_args()


def every_side(loaded: LoadedCheckpoint, task: Draw) -> Iterator[Side]:
    """The service's way, and one version as a file of every format."""
    classes = sorted(task.queries)
    support = [decode(file.content) for file in task.support]
    labels = [classes.index(file.label) for file in task.support]
    queries = [decode(content) for content in task.query_images()]
    delta = loaded.delta(loaded.adapt(loaded.support(support, labels, N_WAY), loaded.checkpoint.recipe, 0))
    weights = loaded.serving_weights(delta)

    def by_service() -> Scores:
        return np.concatenate([loaded.predict([(weights, [one])])[0].probabilities.numpy() for one in queries])

    yield Side("service", by_service)
    digest = hashlib.sha256(b"").hexdigest()
    description = Description({"classes": classes, "weights_digest": digest}, {"precision": "float32"}, b"")
    graph = build_graph(loaded.exported_net(delta, 1.0, 0.5))
    yield exported("onnx", formats.write_file("onnx", graph, description), queries)
    yield exported("openvino", formats.write_file("openvino", graph, description), queries)
    program = loaded.exported_program(delta, 1.0, 0.5, batch=False)
    yield exported("torch", formats.write_file("torch", program, description), queries)
    if isinstance(loaded.checkpoint.build_net(), BackboneNet):
        quantised = build_graph(loaded.exported_net(delta, 1.0, 0.5, support))
        yield exported("onnx, int8", formats.write_file("onnx", quantised, description), queries)


def exported(name: str, content: bytes, images: Sequence[Tensor]) -> Side:
    """The side of a file."""
    opened = formats.open_file(content)
    pixels = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    return Side(name, lambda: np.stack([opened.predict(each).scores for each in pixels]), len(content))


def row(side: Side, times: Times, expected: Scores) -> list[str]:
    """A line of the table."""
    count = len(expected)
    difference = "" if side.size_bytes == 0 else f"{np.abs(side.predict() - expected).max():.5f}"
    size = "" if side.size_bytes == 0 else f"{side.size_bytes / 1e6:.1f}"
    each = [f"{1e3 * seconds / count:.1f}" for seconds in (times.elapsed_median_s, times.processor_median_s)]
    return [side.name, *each, difference, size]


if __name__ == "__main__":
    main()
