"""Ablations of the prototype-head recipe (preset ``omniglot``), one change at a time.

    python benchmarks/omniglot_variants.py --data-root FOLDER [--meta-steps 600] [--only NAME ...] [--folder DIR]

Every variant trains with the same number of meta steps, seed and training characters. Each variant, and the shipped
checkpoint with several serving settings, is scored on the same 5-way episodes of the 423 test characters and compared
with the first row of its table per episode. Trainings and scores are saved in the folder; run the same command again to
resume. The trainings are short, so the table shows tendencies; the shipped checkpoint was trained for 8000 meta steps.
With more inner steps or channels, a meta step is more work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.figures import Parser, differences, markdown, percent, points, script
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import PRESETS, InnerLoopConfig, Preset
from models.data.class_dataset import ClassDataset, DatasetSubset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import DatasetSplits, open_dataset
from models.errors import AdaptationDiverged
from models.meta.evaluation import EvaluationConfig, Normalisation, Score, evaluate
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset
from service.cli.console import progress
from service.cli.train import CACHE

SHOTS: Final = (1, 5)
QUERIES: Final = 10
BASE: Final = PRESETS["omniglot"]


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        name: used on the command line and in file names.
        change: difference to the first variant; row of the table.
        preset: net, inner loop, meta-training and inner loop for serving.
        rotated: whether quarter turns of a character are separate classes.
    """

    name: str
    change: str
    preset: Preset
    rotated: bool = True


@dataclass(frozen=True)
class Use:
    """Settings for serving the shipped checkpoint."""

    name: str
    change: str
    serve: InnerLoopConfig
    normalisation: Normalisation = "frozen"


Scores = dict[int, list[float]]
"""Shots -> one accuracy per episode."""


def variants() -> list[Variant]:
    """The trainings; the first is the reference."""
    five_way = replace(BASE.meta, n_way=5)
    linear = replace(BASE, meta=five_way, recipe=replace(BASE.recipe, head="linear"))
    slow = (("block*", 0.1),)
    return [
        Variant("base", "the preset", BASE),
        Variant("all-anchors", "head initialised from all images of a class, not one", _meta(anchor_shots=0)),
        Variant("5-way", "5-way training tasks instead of 20-way", replace(BASE, meta=five_way)),
        Variant(
            "linear-head",
            "meta-trained linear head, which needs 5-way tasks",
            replace(linear, serve=replace(BASE.serve, head="linear")),
        ),
        Variant(
            "linear-head-0.03",
            "the same with inner learning rate 0.03",
            replace(
                linear,
                recipe=replace(linear.recipe, learning_rate=0.03),
                serve=replace(BASE.serve, head="linear", learning_rate=0.03),
            ),
        ),
        Variant("rate-0.1", "inner learning rate 0.1 instead of 0.3", _recipe(learning_rate=0.1)),
        Variant("rate-0.03", "inner learning rate 0.03", _recipe(learning_rate=0.03)),
        Variant("steps-2", "2 inner steps instead of 5", _recipe(steps=2)),
        Variant("steps-10", "10 inner steps", _recipe(steps=10)),
        Variant("upright", "characters upright only: 1200 classes, not 4800", BASE, rotated=False),
        Variant(
            "slow-blocks",
            "blocks at a tenth of the head's learning rate, in training and serving",
            replace(
                BASE, recipe=replace(BASE.recipe, lr_multipliers=slow), serve=replace(BASE.serve, lr_multipliers=slow)
            ),
        ),
        Variant(
            "width-128", "128 channels instead of 64", replace(BASE, net_config=replace(BASE.net_config, width=128))
        ),
    ]


def uses(serve: InnerLoopConfig) -> list[Use]:
    """The settings for serving; the first is the reference."""
    steps = [
        Use(f"steps-{steps}", f"{steps} step{'s' * (steps != 1)}", serve.adjusted(steps, None))
        for steps in (0, 1, 15, 50)
    ]
    return [
        Use("as-shipped", f"{serve.steps} steps at learning rate {serve.learning_rate}", serve),
        *steps,
        Use("rate-0.3", "learning rate 0.3", serve.adjusted(None, 0.3)),
        Use("rate-0.03", "learning rate 0.03", serve.adjusted(None, 0.03)),
        Use("transductive", "queries share statistics", serve, "transductive"),
    ]


def _meta(**changes: Any) -> Preset:
    return replace(BASE, meta=replace(BASE.meta, **changes))


def _recipe(**changes: Any) -> Preset:
    return replace(BASE, recipe=replace(BASE.recipe, **changes))


@script
def main() -> None:
    """Train and score what is missing, and print both tables."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    run(arguments, open_dataset("omniglot", BASE.net_config.image, arguments.data_root, CACHE))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    names = [variant.name for variant in variants()] + ["uses"]
    parser = Parser(__doc__)
    parser.add_argument("--data-root", type=Path, help="folder with omniglot/")
    parser.option("--meta-steps", 600, "meta steps of each training")
    parser.option("--seed", 0, "seed of the trainings")
    parser.option("--episodes", 200, "episodes for each number of shots", least=2)
    parser.option("--only", names, "rows to train and score", choices=names, metavar="NAME")
    parser.option("--checkpoint", "omniglot", "checkpoint for the table of serving settings")
    parser.option("--folder", Path("data/omniglot-variants"), "folder for trainings and scores")
    parser.option("--threads", 1, "threads per operation")
    return parser.parse_args()


def run(arguments: argparse.Namespace, data: DatasetSplits) -> None:
    """Train and score what is missing in the folder, and print both tables."""
    chosen = [variant for variant in variants() if variant.name in arguments.only]
    trained: dict[str, Scores | str] = {}
    for variant in chosen:
        trained[variant.change] = outcome(variant, data, arguments)
    if trained:
        print(f"{arguments.meta_steps} meta steps each, seed {arguments.seed}; {episodes_line(arguments)}\n")
        print(table("training", trained), flush=True)
    if "uses" in arguments.only:
        shipped = load_checkpoint(arguments.checkpoint)
        used = {use.change: used_scores(use, shipped, data, arguments) for use in uses(shipped.recipe)}
        print(f"\ncheckpoint {arguments.checkpoint}, digest {shipped.digest[:12]}; {episodes_line(arguments)}\n")
        print(table("serving", used))


def episodes_line(arguments: argparse.Namespace) -> str:
    """The episodes of the scores."""
    return f"5-way, {QUERIES} queries per class, {arguments.episodes} episodes, seed 0, 95 % intervals"


def outcome(variant: Variant, data: DatasetSplits, arguments: argparse.Namespace) -> Scores | str:
    """Train a variant if necessary; return its scores, or a note if the training diverged."""
    path = arguments.folder / f"{variant.name}-{arguments.meta_steps}-seed{arguments.seed}.safetensors"
    meta = replace(variant.preset.meta, meta_steps=arguments.meta_steps, seed=arguments.seed)
    record = {"algorithm": "reptile", "sets": [{**data.record, "turned": variant.rotated}]}
    plan = TrainingRunConfig(variant.preset.net_config, variant.preset.recipe, meta, record)
    training = TrainingRun(plan, variant.preset.serve, path, torch.device("cpu"))
    left = meta.meta_steps - training.state.meta_step
    if left:
        steps = training.run(
            [WeightedDataset(data.train if variant.rotated else upright(data.train))], save_every_s=60.0
        )
        try:
            with progress(variant.name, meta.meta_steps, meta.meta_steps - left) as report:
                for step in steps:
                    report(step.meta_step, f"loss {step.loss:.3f}")
        except AdaptationDiverged:
            return f"diverged at meta step {training.state.meta_step + 1}"
    return cached_scores(path.with_suffix(".json"), load_checkpoint(path), "frozen", data, arguments)


def upright(rotated: ClassDataset) -> ClassDataset:
    """The upright classes of a dataset with quarter turns."""
    return DatasetSubset(rotated, range(0, len(rotated), 4), f"{rotated.name}, upright")


def used_scores(use: Use, shipped: Checkpoint, data: DatasetSplits, arguments: argparse.Namespace) -> Scores:
    """The scores of the shipped checkpoint with these settings."""
    path = arguments.folder / f"use-{use.name}.json"
    return cached_scores(path, replace(shipped, recipe=use.serve), use.normalisation, data, arguments)


def cached_scores(
    path: Path, start: Checkpoint, normalisation: Normalisation, data: DatasetSplits, arguments: argparse.Namespace
) -> Scores:
    """Score a checkpoint, or read its scores if it was scored on the same episodes before."""
    key = {"digest": start.digest, "normalisation": normalisation, "episodes": arguments.episodes, "queries": QUERIES}
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["asked_for"] == key:
            return {int(shots): accuracies for shots, accuracies in kept["accuracies"].items()}
    accuracies = {shots: scored(start, normalisation, data.test, shots, arguments.episodes) for shots in SHOTS}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked_for": key, "accuracies": accuracies}))
    return accuracies


def scored(
    start: Checkpoint, normalisation: Normalisation, test: ClassDataset, shots: int, episodes: int
) -> list[float]:
    """One accuracy per episode."""
    source = EpisodeSampler(test, EpisodeShape(5, shots, QUERIES), start.net_config.image)
    plan = EvaluationConfig(episodes, normalisation=normalisation)
    return list(evaluate(start.build_net(), start.weights, source, start.recipe, plan, start.moments))


def table(heading: str, rows: Mapping[str, Scores | str]) -> str:
    """Rows with scores and paired differences to the first row."""
    first = next(iter(rows.values()))
    headings = [heading]
    for shots in SHOTS:
        headings += [f"{shots}-shot", "difference to the first row"]
    return markdown(headings, (cells(name, scores, first) for name, scores in rows.items()))


def cells(name: str, scores: Scores | str, first: Scores | str) -> Sequence[str]:
    """One row."""
    if isinstance(scores, str):
        return (name, scores, *[""] * (2 * len(SHOTS) - 1))
    row = [name]
    for shots in SHOTS:
        reference = scores if isinstance(first, str) else first
        paired = points(differences(scores[shots], reference[shots]), 2)
        row += [percent(Score(tuple(scores[shots])), 2), "" if reference is scores else paired]
    return row


if __name__ == "__main__":
    main()
