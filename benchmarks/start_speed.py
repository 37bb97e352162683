"""Accuracy against milliseconds: starts of several kinds and sizes of image, on the same episodes.

    python benchmarks/start_speed.py --data-root FOLDER [--set x_sdd] [--starts surfaces efficientnet-lite0@160 ...]

NAME@SIDE is a start that sees images of another size than it was made for; its covariance prior was learned at its own.
Time is that of one image on one thread, from decoded pixels to probabilities: resize, net and head. The starts
alternate. Accuracy is that of the start as shipped, class-balanced, with differences to the last start by episode.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.embedded_sets import LabelledSet, Shape, draw_episode, embed_for, read_set
from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, percentile, points, script
from benchmarks.measuring import CPU, alternate
from benchmarks.start_accuracy import WAYS, checkpoint_method
from models.checkpoint import Checkpoint, load_checkpoint
from models.images.preprocessing import decode
from models.meta.evaluation import Score
from service.runtime.loaded_checkpoint import LoadedCheckpoint

STARTS = ("surfaces", "efficientnet-lite0@160", "efficientnet-lite0@224", "efficientnet-lite0")
_PER_ROUND = 20


@script
def main() -> None:
    """Score and time all starts and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    files = read_set(arguments.data_root / f"{arguments.set}.zip", arguments.most)
    starts = {name: start_called(name) for name in arguments.starts}
    record: dict[str, Any] = {"machine": machine(arguments.starts[-1]), "set": files.name, "images": len(files.files)}
    record |= {"episodes": arguments.episodes, "rounds": arguments.rounds, "shots": arguments.shots}
    seconds = timed(starts, files, arguments.rounds)
    accuracies = {shots: scored(starts, files, shots, arguments) for shots in arguments.shots}
    record["starts"] = [
        {
            "start": name,
            "p50_s": percentile(seconds[name], 0.5),
            "accuracies": {shots: accuracies[shots][name] for shots in arguments.shots},
        }
        for name in starts
    ]
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root("one .zip for each set", required=True)
    parser.option("--set", "x_sdd", "name of a .zip file in that folder, without the ending")
    parser.option("--starts", list(STARTS), "shipped names or paths, with @SIDE for another size of image")
    parser.option("--shots", [1, 5, 10], "support images per class")
    parser.option("--queries", 10, "maximum number of queries per class")
    parser.option("--episodes", 100, "number of episodes", least=2)
    parser.option("--most", 300, "images of a class; of larger classes, so many are drawn", least=2)
    parser.option("--rounds", 10, f"rounds of {_PER_ROUND} images in which the starts alternate")
    parser.option("--seed", 0, "seed of the first episode")
    parser.add_argument("--cache", type=Path, help="folder that keeps features between runs (default: none)")
    parser.json()
    return parser.parse_args()


def start_called(name: str) -> Checkpoint:
    """The start NAME or NAME@SIDE."""
    path, _, side = name.partition("@")
    start = load_checkpoint(path)
    if not side:
        return start
    image = replace(start.net_config.image, side=int(side))
    return replace(start, net_config=replace(start.net_config, image=image))


def timed(starts: dict[str, Checkpoint], files: LabelledSet, rounds: int) -> dict[str, list[float]]:
    """Seconds per image of each start, one value per round."""
    images = [decode(file.content) for file in files.files[:: max(1, len(files.files) // _PER_ROUND)]][:_PER_ROUND]

    def side(start: Checkpoint) -> Callable[[int], None]:
        loaded = LoadedCheckpoint(start, CPU)
        support = loaded.support(images[:WAYS], list(range(WAYS)), WAYS)
        weights = loaded.serving_weights(loaded.delta(loaded.adapt(support, start.recipe, 0)))

        def run(_: int) -> None:
            for image in images:
                loaded.predict([(weights, [image])])

        return run

    times = alternate({name: side(start) for name, start in starts.items()}, rounds)
    return {name: [elapsed_s / len(images) for elapsed_s in own.elapsed_s] for name, own in times.items()}


def scored(
    starts: dict[str, Checkpoint], files: LabelledSet, shots: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Accuracy of each start in each episode."""
    methods = [
        checkpoint_method(name, start, embed_for(files, start, arguments.cache)) for name, start in starts.items()
    ]
    accuracies: dict[str, list[float]] = {method.name: [] for method in methods}
    for seed in range(arguments.seed, arguments.seed + arguments.episodes):
        episode = draw_episode(methods[0].data, Shape(WAYS, shots, arguments.queries), seed)
        for method in methods:
            accuracies[method.name].append(episode.accuracy(method.predict(episode, seed)))
    return accuracies


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    reference = record["starts"][-1]
    rows = []
    for row in record["starts"]:
        path, at, side = row["start"].partition("@")
        cells = [
            f"{Path(path).name.removesuffix('.safetensors')}{at}{side}",
            f"{1e3 * row['p50_s']:.1f}",
            f"{row['p50_s'] / reference['p50_s']:.2f}",
        ]
        for shots, values in row["accuracies"].items():
            cells.append(percent(Score(tuple(values))))
            cells.append("" if row is reference else points(differences(values, reference["accuracies"][shots])))
        rows.append(tuple(cells))
    of_shots = [name for shots in record["shots"] for name in (f"{shots}-shot", "to the last")]
    return "\n".join([
        f"{record['set']}: {record['images']} images, {record['episodes']} episodes",
        machine_line(record["machine"]),
        "",
        markdown(("start", "ms per image", "ratio", *of_shots), rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
