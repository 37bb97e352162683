"""Baseline: local binary patterns with logistic regression, on the episodes that nets are scored on.

    python benchmarks/lbp_baseline.py --data-root FOLDER [--dataset folder:x_sdd.zip] [--shots 1 5 10] [--episodes 200]

Histograms of uniform local binary patterns (Ojala, Pietikäinen & Mäenpää 2002) of the grey image at 128 pixels, with
each bin standardised over the support, then logistic regression with an L2 penalty of 1. Episode i uses the same seed,
and so the same images, as episode i of ``anole evaluate``. Needs scikit-image and scikit-learn: pip install
'anole[benchmarks]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.episode_options import add_episode_options, few_shot_classes
from benchmarks.figures import markdown
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import AnoleError
from models.images.preprocessing import ImageConfig
from models.meta.evaluation import EvaluationConfig, Score
from models.task import Support

SPEC: Final = ImageConfig(channels=1, side=128, contrast="none")
NEEDED: Final = "scikit-image and scikit-learn are not installed: pip install 'anole[benchmarks]'"


@dataclass(frozen=True)
class Patterns:
    """Which patterns are counted.

    Attributes:
        name: name in the table.
        method: of scikit-image: "uniform" counts a pattern and its rotations as one, "nri_uniform" keeps them apart.
        rings: (points, radius in pixels) of each circle; their histograms stand side by side.
    """

    name: str
    method: Literal["uniform", "nri_uniform"]
    rings: tuple[tuple[int, int], ...]

    def bins(self, points: int) -> int:
        """Numbers in one ring's histogram, the one bin of all patterns that are not uniform included."""
        return points + 2 if self.method == "uniform" else points * (points - 1) + 3


PATTERNS: Final = (
    Patterns("LBP whichever way it is turned, logistic regression", "uniform", ((8, 1), (16, 2), (24, 3))),
    Patterns("LBP with its direction, logistic regression", "nri_uniform", ((8, 1), (8, 2), (8, 3))),
)


class Histograms:
    """Turns images into histograms; an image that comes again is looked up."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def of(self, images: Tensor) -> NDArray[np.float64]:
        """Histograms of float32 (images, 1, side, side) in [0, 1]: (images, bins), each ring's bins sum to 1."""
        pixels = (images[:, 0] * 255).round().to(torch.uint8).numpy()
        return np.stack([self._one(image) for image in pixels])

    def _one(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        key = pixels.tobytes()
        if key not in self._known:
            self._known[key] = np.concatenate([self._ring(pixels, *ring) for ring in self._patterns.rings])
        return self._known[key]

    def _ring(self, pixels: NDArray[np.uint8], points: int, radius: int) -> NDArray[np.float64]:
        from skimage.feature import local_binary_pattern

        codes = local_binary_pattern(pixels, points, radius, self._patterns.method).astype(np.int64)
        counts: NDArray[np.float64] = np.bincount(codes.ravel(), minlength=self._patterns.bins(points)) / codes.size
        return counts


def installed() -> bool:
    """Whether the extra ``benchmarks`` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("skimage", "sklearn"))


def fitted(support: Support, histograms: Histograms) -> Any:
    """A classifier fitted to the support."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return classifier.fit(histograms.of(support.images), support.labels.numpy())


def accuracies(
    classes: ClassDataset, shape: EpisodeShape, plan: EvaluationConfig, histograms: Histograms
) -> Iterator[float]:
    """Yield the query accuracy of each episode.

    Args:
        classes: the data set, opened with `SPEC`.
        shape: of the episodes.
        plan: how many, and the seed of the first.
        histograms: shared between calls, so that an image is looked at once.
    """
    source = EpisodeSampler(classes, shape, SPEC)
    for episode in range(plan.episodes):
        task = source.task(plan.seed + episode)
        predicted = fitted(task.support, histograms).predict(histograms.of(task.query_images))
        yield float((predicted == task.query_labels.numpy()).mean())


def main() -> None:
    """Score both kinds of patterns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_episode_options(parser)
    arguments = parser.parse_args()
    if not installed():
        sys.exit(f"error: {NEEDED}")
    try:
        classes = few_shot_classes(arguments, SPEC)
        record = {patterns.name: scores(classes, arguments, patterns) for patterns in PATTERNS}
    except AnoleError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps({"data": classes.name, "accuracies": record}, indent=2))
        return
    headings = ("features", *(f"{arguments.ways}-way {shots}-shot" for shots in arguments.shots))
    print(markdown(headings, [(name, *map(percent, row)) for name, row in record.items()]))


def scores(classes: ClassDataset, arguments: argparse.Namespace, patterns: Patterns) -> list[list[float]]:
    """Accuracies of the episodes, for each number of shots."""
    histograms, plan = Histograms(patterns), EvaluationConfig(arguments.episodes, arguments.seed)
    shapes = (EpisodeShape(arguments.ways, shots, arguments.queries) for shots in arguments.shots)
    return [list(accuracies(classes, shape, plan, histograms)) for shape in shapes]


def percent(accuracies_: list[float]) -> str:
    """Mean and half of the 95 % interval."""
    score = Score(tuple(accuracies_))
    return f"{100 * score.mean:.1f} ± {100 * score.half_width:.1f} %"


if __name__ == "__main__":
    main()
