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
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.figures import markdown
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import PRESETS, InnerLoopConfig, Preset
from models.data.class_dataset import ClassDataset, DatasetSubset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import DatasetSplits, open_dataset
from models.errors import AdaptationDiverged, AnoleError
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
        name: for the command line and its files.
        change: what differs from the first, in words.
        preset: net, inner loop, meta loop and the inner loop of its use.
        turned: whether the quarter turns of a character are classes of their own.
    """

    name: str
    change: str
    preset: Preset
    turned: bool = True


@dataclass(frozen=True)
class Use:
    """One way of using the shipped checkpoint."""

    name: str
    change: str
    serve: InnerLoopConfig
    normalisation: Normalisation = "frozen"


Scores = dict[int, list[float]]
"""Shots -> one accuracy an episode."""


def variants() -> list[Variant]:
    """Training variants; the first is the reference."""
    five_way = replace(BASE.meta, n_way=5)
    linear = replace(BASE, meta=five_way, recipe=replace(BASE.recipe, head="linear"))
    slow = (("block*", 0.1),)
    return [
        Variant("base", "the preset", BASE),
        Variant("all-anchors", "head starts from all images of a class, not one", _meta(anchor_shots=0)),
        Variant("5-way", "5-way training tasks instead of 20-way", replace(BASE, meta=five_way)),
        Variant(
            "linear-head",
            "meta-trained linear head, which fixes the tasks to 5-way",
            replace(linear, serve=replace(BASE.serve, head="linear")),
        ),
        Variant(
            "linear-head-0.03",
            "the same with inner rates 0.03",
            replace(
                linear,
                recipe=replace(linear.recipe, learning_rate=0.03),
                serve=replace(BASE.serve, head="linear", learning_rate=0.03),
            ),
        ),
        Variant("rate-0.1", "inner rate 0.1 instead of 0.3", _recipe(learning_rate=0.1)),
        Variant("rate-0.03", "inner rate 0.03", _recipe(learning_rate=0.03)),
        Variant("steps-2", "2 inner steps instead of 5", _recipe(steps=2)),
        Variant("steps-10", "10 inner steps", _recipe(steps=10)),
        Variant("upright", "characters upright only: 1200 classes, not 4800", BASE, turned=False),
        Variant(
            "slow-blocks",
            "blocks at a tenth of the head's rate, in training and use",
            replace(
                BASE, recipe=replace(BASE.recipe, lr_multipliers=slow), serve=replace(BASE.serve, lr_multipliers=slow)
            ),
        ),
        Variant(
            "width-128", "128 channels instead of 64", replace(BASE, net_config=replace(BASE.net_config, width=128))
        ),
    ]


def uses(serve: InnerLoopConfig) -> list[Use]:
    """Ways of using a checkpoint; the first is the reference."""
    steps = [
        Use(f"steps-{steps}", f"{steps} step{'s' * (steps != 1)}", serve.adjusted(steps, None))
        for steps in (0, 1, 15, 50)
    ]
    return [
        Use("as-shipped", f"{serve.steps} steps at rate {serve.learning_rate}", serve),
        *steps,
        Use("rate-0.3", "rate 0.3", serve.adjusted(None, 0.3)),
        Use("rate-0.03", "rate 0.03", serve.adjusted(None, 0.03)),
        Use("transductive", "queries share statistics", serve, "transductive"),
    ]


def _meta(**changes: Any) -> Preset:
    return replace(BASE, meta=replace(BASE.meta, **changes))


def _recipe(**changes: Any) -> Preset:
    return replace(BASE, recipe=replace(BASE.recipe, **changes))


def main() -> None:
    """Train and score the selected rows that are not saved yet, and print both tables."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    try:
        data = open_dataset("omniglot", BASE.net_config.image, arguments.data_root, CACHE)
        run(arguments, data)
    except AnoleError as error:
        sys.exit(f"error: {error}")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    names = [variant.name for variant in variants()] + ["uses"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=None, help="folder with omniglot")
    parser.add_argument("--meta-steps", type=int, default=600, help="of every training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=200, help="a number of shots (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--checkpoint", default="omniglot", help="the one that is used in several ways (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("data/omniglot-variants"), help="keeps what is done")
    parser.add_argument("--threads", type=int, default=1, help="inside one operation (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.episodes < 2:
        parser.error("an interval needs at least 2 episodes")
    return arguments


def run(arguments: argparse.Namespace, data: DatasetSplits) -> None:
    """Complete the folder and print its content."""
    chosen = [variant for variant in variants() if variant.name in arguments.only]
    trained: dict[str, Scores | str] = {}
    for variant in chosen:
        trained[variant.change] = outcome(variant, data, arguments)
    if trained:
        print(f"{arguments.meta_steps} meta steps each, seed {arguments.seed}; {asked(arguments)}\n")
        print(table("training", trained), flush=True)
    if "uses" in arguments.only:
        shipped = load_checkpoint(arguments.checkpoint)
        used = {use.change: used_scores(use, shipped, data, arguments) for use in uses(shipped.recipe)}
        print(f"\ncheckpoint {arguments.checkpoint}, digest {shipped.digest[:12]}; {asked(arguments)}\n")
        print(table("use", used))


def asked(arguments: argparse.Namespace) -> str:
    """Describe the scored episodes."""
    return f"5-way, {QUERIES} queries a class, {arguments.episodes} episodes, seed 0, 95 % intervals"


def outcome(variant: Variant, data: DatasetSplits, arguments: argparse.Namespace) -> Scores | str:
    """Scores of a variant, or why there are none; trains it if needed."""
    path = arguments.folder / f"{variant.name}-{arguments.meta_steps}-seed{arguments.seed}.safetensors"
    meta = replace(variant.preset.meta, meta_steps=arguments.meta_steps, seed=arguments.seed)
    record = {"algorithm": "reptile", "sets": [{**data.record, "turned": variant.turned}]}
    plan = TrainingRunConfig(variant.preset.net_config, variant.preset.recipe, meta, record)
    training = TrainingRun(plan, variant.preset.serve, path, torch.device("cpu"))
    left = meta.meta_steps - training.state.meta_step
    if left:
        steps = training.run(
            [WeightedDataset(data.train if variant.turned else upright(data.train))], save_every_s=60.0
        )
        try:
            with progress(variant.name, meta.meta_steps, meta.meta_steps - left) as report:
                for step in steps:
                    report(step.meta_step, f"loss {step.loss:.3f}")
        except AdaptationDiverged:
            return f"diverged at meta step {training.state.meta_step + 1}"
    return kept_scores(path.with_suffix(".json"), load_checkpoint(path), "frozen", data, arguments)


def upright(turned: ClassDataset) -> ClassDataset:
    """The upright classes of a dataset with quarter turns."""
    return DatasetSubset(turned, range(0, len(turned), 4), f"{turned.name}, upright")


def used_scores(use: Use, shipped: Checkpoint, data: DatasetSplits, arguments: argparse.Namespace) -> Scores:
    """The scores of a way of using the shipped checkpoint."""
    path = arguments.folder / f"use-{use.name}.json"
    return kept_scores(path, replace(shipped, recipe=use.serve), use.normalisation, data, arguments)


def kept_scores(
    path: Path, start: Checkpoint, how: Normalisation, data: DatasetSplits, arguments: argparse.Namespace
) -> Scores:
    """Score a checkpoint, or load the saved scores of the same checkpoint and episodes."""
    asked_for = {"digest": start.digest, "normalisation": how, "episodes": arguments.episodes, "queries": QUERIES}
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["asked_for"] == asked_for:
            return {int(shots): own for shots, own in kept["accuracies"].items()}
    accuracies = {shots: scored(start, how, data.test, shots, arguments.episodes) for shots in SHOTS}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked_for": asked_for, "accuracies": accuracies}))
    return accuracies


def scored(start: Checkpoint, how: Normalisation, test: ClassDataset, shots: int, episodes: int) -> list[float]:
    """One accuracy an episode."""
    source = EpisodeSampler(test, EpisodeShape(5, shots, QUERIES), start.net_config.image)
    plan = EvaluationConfig(episodes, normalisation=how)
    return list(evaluate(start.build_net(), start.weights, source, start.recipe, plan, start.moments))


def table(heading: str, rows: Mapping[str, Scores | str]) -> str:
    """Rows with their scores and differences to the first."""
    first = next(iter(rows.values()))
    headings = [heading]
    for shots in SHOTS:
        headings += [f"{shots}-shot", "against the first"]
    return markdown(headings, (cells(name, own, first) for name, own in rows.items()))


def cells(name: str, own: Scores | str, first: Scores | str) -> Sequence[str]:
    """One row."""
    if isinstance(own, str):
        return (name, own, *[""] * (2 * len(SHOTS) - 1))
    row = [name]
    for shots in SHOTS:
        row.append(interval(own[shots], "{:.2f} ± {:.2f} %"))
        if own is first or isinstance(first, str):
            row.append("")
        else:
            row.append(interval(_differences(own[shots], first[shots]), "{:+.2f} ± {:.2f}"))
    return row


def _differences(own: Iterable[float], other: Iterable[float]) -> list[float]:
    return [mine - its for mine, its in zip(own, other, strict=True)]


def interval(values: Sequence[float], form: str) -> str:
    """Mean and half of the 95 % interval, in per cent."""
    score = Score(tuple(values))
    return form.format(100 * score.mean, 100 * score.half_width)


if __name__ == "__main__":
    main()
