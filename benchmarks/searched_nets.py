"""Accuracy and time of nets that `anole search` found, against conv4 with the same training.

    anole search --dataset omniglot --data-root FOLDER --out DIR --meta-steps 300
    anole train --dataset omniglot --data-root FOLDER --meta-steps 300 --out conv4.safetensors
    python benchmarks/searched_nets.py --data-root FOLDER conv4.safetensors DIR/winner-12.safetensors

The first checkpoint is the reference. All are scored on the same episodes of test classes, which the search never saw,
with differences to the reference by episode. Times are those of one image in the net and its head, as it is served on
one CPU thread, without decoding and resizing; the nets take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, points, script
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.search import prediction_milliseconds, weight_megabytes
from service.cli.train import CACHE

TASKS: Final = ("5x1", "5x5", "20x1")
"""Classes x support images per class."""


@script
def main() -> None:
    """Score and time all checkpoints and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    starts = [load_checkpoint(path) for path in arguments.checkpoints]
    record: dict[str, Any] = {"machine": machine(starts[0].name), "dataset": arguments.dataset}
    record |= {"episodes": arguments.episodes, "seed": arguments.seed, "checkpoints": []}
    image = replace(starts[0].net_config.image, fit="stretch")
    test = open_dataset(arguments.dataset, image, arguments.data_root, CACHE).test
    times = prediction_milliseconds([start.net_config for start in starts], arguments.runs)
    for start, ms in zip(starts, times, strict=True):
        accuracies = {task: scored(start, test, task, arguments) for task in arguments.tasks}
        record["checkpoints"].append({"net": description(start, starts[0]), "ms": ms, **sizes(start), **accuracies})
    print(json.dumps(record, indent=2) if arguments.json else table(record, arguments.tasks))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="of conv4 nets; the first is the reference")
    parser.data_root("omniglot/", required=True)
    parser.option("--dataset", "omniglot", "whose test classes to score on")
    parser.option("--tasks", list(TASKS), "classes x support images per class", metavar="WAYSxSHOTS")
    parser.option("--queries", 5, "queries per class")
    parser.option("--episodes", 200, "episodes of each task", least=2)
    parser.option("--runs", 1000, "timed predictions of each net")
    parser.option("--seed", 0, "seed of the first episode")
    parser.json()
    return parser.parse_args()


def scored(start: Checkpoint, test: ClassDataset, task: str, arguments: argparse.Namespace) -> list[float]:
    """One accuracy per episode."""
    n_way, n_shot = map(int, task.split("x"))
    source = EpisodeSampler(test, EpisodeShape(n_way, n_shot, arguments.queries), start.net_config.image)
    plan = EvaluationConfig(arguments.episodes, arguments.seed, start.recipe.statistics)
    return list(evaluate(start.build_net(), start.weights, source, start.recipe, plan, start.moments))


def sizes(start: Checkpoint) -> dict[str, Any]:
    """Megabytes of the weights, and how long the net was trained."""
    return {"mb": weight_megabytes(start.net_config), "meta_steps": start.training.get("meta_step")}


def description(start: Checkpoint, reference: Checkpoint) -> str:
    """The fields of a net that differ from the reference's."""
    own, usual = vars(start.net_config), vars(reference.net_config)
    differing = [f"{name} {value}" for name, value in own.items() if value != usual[name]]
    return f"{start.name}: {', '.join(differing) or 'the same net'}" if start is not reference else start.name


def table(record: dict[str, Any], tasks: Sequence[str]) -> str:
    """The results as text."""
    reference = record["checkpoints"][0]
    rows = []
    for row in record["checkpoints"]:
        cells = [row["net"], str(row["meta_steps"]), f"{row['ms']:.3f}", f"{row['mb']:.2f}"]
        for task in tasks:
            cells.append(percent(Score(tuple(row[task])), 2))
            cells.append("" if row is reference else points(differences(row[task], reference[task]), 2))
        rows.append(tuple(cells))
    of_tasks = [heading for task in tasks for heading in (f"{task.replace('x', '-way ')}-shot", "difference")]
    return "\n".join([
        f"{record['dataset']}: {record['episodes']} episodes of each task, seed {record['seed']}",
        machine_line(record["machine"]),
        "",
        markdown(("net", "meta steps", "ms per image", "MB", *of_tasks), rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
