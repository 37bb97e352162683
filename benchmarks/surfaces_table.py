"""A start meta-trained on other images compared with classical features on real surfaces.

    python benchmarks/surfaces_table.py --data-root FOLDER [--checkpoint surfaces] [--dataset folder:x_sdd.zip]

All rows use the episodes that ``anole evaluate`` samples from the same seed: the checkpoint adapted, and with
prototypes only (0 steps); the same net with random weights, likewise; and local binary patterns with logistic
regression. Differences to the first row are taken per episode. Times are for learning from 50 images, medians of rounds
in which the rows alternate.

The local binary patterns are histograms of uniform patterns (Ojala, Pietikäinen & Mäenpää 2002) of the grey image at
128 pixels. Each bin is standardised over the support; logistic regression has an L2 penalty of 1. These rows need
scikit-image and scikit-learn: pip install 'anole[benchmarks]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, points, script
from benchmarks.fixtures import untrained
from benchmarks.measuring import Times
from models.adaptation.adapt import adapt_one
from models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.images.preprocessing import ImageConfig
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.task import Support
from service.cli.console import progress
from service.cli.train import CACHE

TIMED_IMAGES: Final = 50
LBP_IMAGES: Final = ImageConfig(channels=1, side=128, contrast="none")


@dataclass
class Method:
    """One method and its results.

    Attributes:
        name: row of the table.
        score: yields one accuracy per episode of a shape.
        learner: takes a shape and a seed; returns a function that learns a support of that shape.
        accuracies: shots -> one accuracy per episode.
        times: of the timed rounds.
    """

    name: str
    score: Callable[[EpisodeShape], Iterator[float]]
    learner: Callable[[EpisodeShape, int], Callable[[], object]]
    accuracies: dict[int, list[float]] = field(default_factory=dict)
    times: Times = field(default_factory=Times)


@dataclass(frozen=True)
class Patterns:
    """Kind of local binary patterns.

    Attributes:
        name: row of the table.
        method: of scikit-image: "uniform" counts a pattern and its rotations as one, "nri_uniform" separates them.
        rings: (points, radius in pixels) of each circle; their histograms are concatenated.
    """

    name: str
    method: Literal["uniform", "nri_uniform"]
    rings: tuple[tuple[int, int], ...]

    def bins(self, points: int) -> int:
        """Number of bins of one ring, including the bin of all patterns that are not uniform."""
        return points + 2 if self.method == "uniform" else points * (points - 1) + 3


PATTERNS: Final = (
    Patterns("local binary patterns without orientation, logistic regression", "uniform", ((8, 1), (16, 2), (24, 3))),
    Patterns("local binary patterns with orientation, logistic regression", "nri_uniform", ((8, 1), (8, 2), (8, 3))),
)


class Histograms:
    """Computes histograms of images and caches them."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._cache: dict[bytes, NDArray[np.float64]] = {}

    def of(self, images: Tensor) -> NDArray[np.float64]:
        """Histograms of float32 (images, 1, side, side) in [0, 1]: (images, bins), the bins of each ring sum to 1."""
        pixels = (images[:, 0] * 255).round().to(torch.uint8).numpy()
        return np.stack([self._of_image(image) for image in pixels])

    def _of_image(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        key = pixels.tobytes()
        if key not in self._cache:
            self._cache[key] = np.concatenate([self._ring(pixels, *ring) for ring in self._patterns.rings])
        return self._cache[key]

    def _ring(self, pixels: NDArray[np.uint8], points: int, radius: int) -> NDArray[np.float64]:
        from skimage.feature import local_binary_pattern

        codes = local_binary_pattern(pixels, points, radius, self._patterns.method).astype(np.int64)
        counts: NDArray[np.float64] = np.bincount(codes.ravel(), minlength=self._patterns.bins(points)) / codes.size
        return counts


def fit_lbp(support: Support, histograms: Histograms) -> Any:
    """Fit the classifier to the support."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return classifier.fit(histograms.of(support.inputs), support.labels.numpy())


def lbp_accuracies(
    classes: ClassDataset, shape: EpisodeShape, plan: EvaluationConfig, histograms: Histograms
) -> Iterator[float]:
    """Yield the query accuracy of each episode; `classes` must be opened with `LBP_IMAGES`."""
    source = EpisodeSampler(classes, shape, LBP_IMAGES)
    for episode in range(plan.episodes):
        task = source.task(plan.seed + episode)
        predicted = fit_lbp(task.support, histograms).predict(histograms.of(task.query_inputs))
        yield float((predicted == task.query_labels.numpy()).mean())


@script
def main() -> None:
    """Score and time all methods and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    record: dict[str, Any] = {"machine": machine(arguments.checkpoint, threads=arguments.threads), **vars(arguments)}
    checkpoint = load_checkpoint(arguments.checkpoint)
    record |= {
        "data_root": str(arguments.data_root),
        "digest": checkpoint.digest,
        "checkpoint_bytes": find_checkpoint(arguments.checkpoint).stat().st_size,
        "recipe": checkpoint.recipe.to_json(),
    }
    methods = all_methods(checkpoint, arguments)
    score(methods, arguments)
    timed = EpisodeShape(arguments.ways, max(1, TIMED_IMAGES // arguments.ways))
    for number in range(arguments.rounds):
        for method in methods:
            method.times.measure(method.learner(timed, arguments.seed + number))
    record["timed_images"] = timed.n_way * timed.n_shot
    record["rows"] = [method_record(method, methods[0]) for method in methods]
    print(json.dumps(record, indent=2) if arguments.json else table(record))


def parse_arguments() -> argparse.Namespace:
    """The command line; the options of the episodes are those of ``anole evaluate``."""
    parser = Parser(__doc__)
    parser.option("--checkpoint", "surfaces", "name of a shipped checkpoint, or path to one")
    parser.option("--random-seed", 0, "seed of the random weights")
    parser.option("--rounds", 9, "timed rounds")
    parser.option("--threads", 1, "threads per operation")
    parser.data_root("the datasets")
    parser.option("--dataset", "folder:x_sdd.zip", "dataset")
    parser.option("--ways", 5, "classes per episode")
    parser.option("--shots", [1, 5, 10], "support images per class")
    parser.option("--queries", 10, "query images per class")
    parser.option("--episodes", 200, "number of episodes", least=2)
    parser.option("--seed", 0, "seed of the first episode")
    parser.json()
    return parser.parse_args()


def lbp_available() -> bool:
    """Whether the packages for local binary patterns are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("skimage", "sklearn"))


def all_methods(checkpoint: Checkpoint, arguments: argparse.Namespace) -> list[Method]:
    """The rows of the table."""

    def classes(images: ImageConfig) -> ClassDataset:
        return open_dataset(arguments.dataset, images, arguments.data_root, CACHE).test

    plan = EvaluationConfig(arguments.episodes, arguments.seed, checkpoint.recipe.statistics)
    data, steps = classes(checkpoint.net_config.image), checkpoint.recipe.steps
    methods = []
    for name, start in {
        "meta-trained": checkpoint,
        "random weights": untrained(checkpoint, arguments.random_seed),
    }.items():
        methods.append(net_method(f"{name}, {steps} inner steps", start, data, plan))
        prototypes = replace(start, recipe=start.recipe.adjusted(0, None))
        methods.append(net_method(f"{name}, prototypes only (0 steps)", prototypes, data, plan))
    if not lbp_available():
        needed = "scikit-image and scikit-learn are not installed: pip install 'anole[benchmarks]'"
        print(f"rows of local binary patterns are left out: {needed}", file=sys.stderr)
        return methods
    grey = classes(LBP_IMAGES)
    return methods + [lbp_method(patterns, grey, plan) for patterns in PATTERNS]


def net_method(name: str, start: Checkpoint, classes: ClassDataset, plan: EvaluationConfig) -> Method:
    """A checkpoint adapted by its recipe."""
    net, spec = start.build_net(), start.net_config.image

    def score(shape: EpisodeShape) -> Iterator[float]:
        source = EpisodeSampler(classes, shape, spec)
        return evaluate(net, start.weights, source, start.recipe, plan, start.moments)

    def learner(shape: EpisodeShape, seed: int) -> Callable[[], object]:
        support = EpisodeSampler(classes, shape, spec).support(seed)
        return lambda: adapt_one(net, start.weights, support, start.recipe, seed)

    return Method(name, score, learner)


def lbp_method(patterns: Patterns, grey: ClassDataset, plan: EvaluationConfig) -> Method:
    """Local binary patterns; the timed runs do not use the cache."""
    histograms = Histograms(patterns)

    def learner(shape: EpisodeShape, seed: int) -> Callable[[], object]:
        support = EpisodeSampler(grey, shape, LBP_IMAGES).support(seed)
        return lambda: fit_lbp(support, Histograms(patterns))

    return Method(patterns.name, lambda shape: lbp_accuracies(grey, shape, plan, histograms), learner)


def score(methods: Sequence[Method], arguments: argparse.Namespace) -> None:
    """Score all methods on the same episodes."""
    scored = 0
    with progress("scoring", len(arguments.shots) * len(methods) * arguments.episodes) as report:
        for shots in arguments.shots:
            for method in methods:
                accuracies = method.accuracies.setdefault(shots, [])
                for accuracy in method.score(EpisodeShape(arguments.ways, shots, arguments.queries)):
                    accuracies.append(accuracy)
                    scored += 1
                    mean = sum(accuracies) / len(accuracies)
                    report(scored, f"{method.name}, {shots}-shot: {100 * mean:.1f} % so far")


def method_record(method: Method, first: Method) -> dict[str, Any]:
    """The results of a method as JSON data."""
    cells = []
    for shots, accuracies in method.accuracies.items():
        alone, paired = Score(tuple(accuracies)), differences(accuracies, first.accuracies[shots])
        cells.append({
            "shots": shots,
            "accuracy": alone.mean,
            "text": percent(alone) if method is first else f"{percent(alone)} ({points(paired)})",
            "difference_to_first": None if method is first else paired.mean,
            "accuracies": accuracies,
        })  # fmt: skip
    times = method.times
    medians = (times.elapsed_median_s, times.processor_median_s) if times.elapsed_s else (None, None)
    return {"method": method.name, "cells": cells, "learn_s": medians[0], "learn_processor_s": medians[1]}


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    rows = [
        (
            row["method"],
            *(cell["text"] for cell in row["cells"]),
            *("" if row[key] is None else f"{row[key]:.2f} s" for key in ("learn_s", "learn_processor_s")),
        )
        for row in record["rows"]
    ]
    columns = (
        "method",
        *(f"{shots}-shot" for shots in record["shots"]),
        f"time to learn from {record['timed_images']} images",
        "processor time",
    )
    return "\n".join([
        f"{record['dataset']}: {record['ways']}-way, {record['queries']} queries per class",
        f"{record['episodes']} episodes, seed {record['seed']}; seed of the random weights {record['random_seed']}",
        f"checkpoint {record['checkpoint']}, digest {record['digest'][:12]}, {record['checkpoint_bytes']:,} bytes",
        machine_line(record["machine"]),
        "Accuracy with 95 % interval; in brackets the difference to the first row, paired by episode.",
        "",
        markdown(columns, rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
