"""``anole train`` and ``anole evaluate``: meta-training and its score, from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.table import Table

from models.adaptation.allocator import keep_freed_memory
from models.checkpoint import load_checkpoint
from models.config import LrMultipliers, Precision
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.images.preprocessing import ImageConfig
from models.meta.curve import can_plot
from models.meta.evaluation import EvaluationConfig, Normalisation, Score
from models.meta.evaluation import evaluate as score_episodes
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset
from models.presets import PRESETS, preset
from service.cli.console import INTERRUPTED, notices, output, plain
from service.cli.progress import Work, reported
from service.runtime.device import pick_device
from service.settings import load_settings

CACHE = Path.home() / ".cache" / "anole"

DataSetName = Annotated[str, typer.Option("--dataset", help="omniglot, mini-imagenet, textures, or folder:PATH.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where the data sets lie.", show_default="ANOLE_DATA_ROOT")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads to use.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
InnerRates = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=X",
        help="Multiplies the inner rate of weights so named, in training and in serving: 'block*=0.1'; 0 freezes.",
    ),
]
MetaRates = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN=X", help="Multiplies the meta step of weights so named; the last match wins."),
]
PrecisionName = Annotated[
    Precision | None,
    typer.Option(help="Of the inner steps, in training and in serving; float16 on CUDA.", show_default="preset"),
]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Save memory for time: run each block again in the backward pass.")
]


def train(
    dataset: Annotated[list[str], typer.Option(help="omniglot, mini-imagenet, textures, folder:PATH; several mix.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write, and to go on from if it is there.")],
    ways: Annotated[int | None, typer.Option(min=2, help="Classes a training task.", show_default="preset")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Images a class in it.", show_default="preset")] = None,
    share: Annotated[
        list[float] | None, typer.Option(min=0, help="Share of tasks a data set gives.", show_default="equal")
    ] = None,
    algorithm: Annotated[
        Literal["reptile", "fomaml", "maml"], typer.Option(help="Meta-learning algorithm.")
    ] = "reptile",
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"Net and recipe: {', '.join(PRESETS)}.", show_default="by data set")
    ] = None,
    meta_steps: Annotated[int | None, typer.Option(min=1, help="Meta steps in all.", show_default="preset")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Of the inner steps; MAML wants a lower one.", show_default="preset")
    ] = None,
    inner_rate: InnerRates = None,
    meta_rate: MetaRates = None,
    precision: PrecisionName = None,
    recompute: Recompute = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    data_root: DataRoot = None,
    threads: Threads = 1,
    device: Device = "auto",
    save_every_s: Annotated[
        float, typer.Option(min=0, help="Seconds between checkpoints; 0: every meta step.")
    ] = 180.0,
) -> None:
    """Meta-train a start; interrupted, the same command goes on where it stood."""
    torch.set_num_threads(1 if algorithm == "reptile" else threads)  # its tasks are spread over the threads
    keep_freed_memory()
    chosen = preset(preset_name or (dataset[0] if dataset in (["omniglot"], ["mini-imagenet"]) else "surfaces"))
    kept = _given(n_way=ways, train_shots=shots, meta_steps=meta_steps, seed=seed, rates=_rates(meta_rate))
    meta = replace(chosen.meta, algorithm=algorithm, **kept)
    sets, records = _mixture(dataset, share, chosen.net_config.image, data_root)
    shared = _given(rates=_rates(inner_rate), precision=precision, recompute=recompute or None)
    recipe = replace(chosen.recipe.adjusted(None, learning_rate), **shared)
    plan = TrainingRunConfig(chosen.net_config, recipe, meta, {"algorithm": algorithm, "sets": records})
    run = TrainingRun(plan, replace(chosen.serve, **shared), out, pick_device(device), threads)
    if not can_plot():
        notices().print(plain("the learning curve is written without its picture; for one: pip install 'anole[plot]'"))
    _train_to_the_end(run, sets, meta.meta_steps, save_every_s)
    output().print(plain(f"{out}: {meta.meta_steps} meta steps, digest {load_checkpoint(out).digest[:12]}"))


def _train_to_the_end(run: TrainingRun, sets: list[WeightedDataset], meta_steps: int, save_every_s: float) -> None:
    """Train and report on it; interrupted from the keyboard, keep what there is."""
    done = run.state.meta_step
    if done:
        end = "; nothing is left to do" if done == meta_steps else "; going on"
        notices().print(plain(f"{run.path} stands at meta step {done} of {meta_steps}{end}"))
    try:
        with reported(Work("training", "steps", meta_steps, done)) as report:
            for step in run.run(sets, save_every_s):
                kept = f", saved {step.saved_meta_step}" if step.saved_meta_step else ""
                report.at(step.meta_step, f"loss {step.loss:.3f}{kept}")
    except KeyboardInterrupt:
        run.save()
        notices().print(plain(f"stopped; {run.path} holds meta step {run.state.meta_step}; the same command goes on"))
        raise typer.Exit(INTERRUPTED) from None


def _given(**values: object) -> dict[str, Any]:
    """The settings that were given; None leaves a preset's."""
    return {name: value for name, value in values.items() if value is not None}


def _rates(texts: list[str] | None) -> LrMultipliers | None:
    """PATTERN=X options as pairs; None where there are none, so that a preset's own rates stay."""
    pairs = []
    for text in texts or []:
        pattern, _, multiplier = text.rpartition("=")
        try:
            pairs.append((pattern, float(multiplier)))
        except ValueError:
            pattern = ""
        if not pattern:
            raise typer.BadParameter(f"a rate came as {text!r}; give PATTERN=X, for example 'block*=0.1'")
    return tuple(pairs) or None


def _mixture(
    names: list[str], shares: list[float] | None, spec: ImageConfig, data_root: Path | None
) -> tuple[list[WeightedDataset], list[dict[str, Any]]]:
    """Open the training sets, with what a checkpoint records of them; shares come one a data set, or not at all."""
    if shares and len(shares) != len(names):
        raise typer.BadParameter(f"{len(names)} data sets came with {len(shares)} shares; give one each")
    root = data_root or load_settings().data_root
    opened = [open_dataset(name, spec, root, CACHE) for name in names]
    weights = shares or [1.0] * len(names)
    sets = [WeightedDataset(data.train, weight) for data, weight in zip(opened, weights, strict=True)]
    return sets, [{**data.record, "share": weight} for data, weight in zip(opened, weights, strict=True)]


def evaluate(
    checkpoint: Annotated[str, typer.Option(help="Shipped name or path.")],
    dataset: DataSetName,
    ways: Annotated[int, typer.Option(min=2, help="Classes an episode.")] = 5,
    shots: Annotated[int, typer.Option(min=1, help="Support images a class.")] = 5,
    queries: Annotated[int, typer.Option(min=1, help="Query images a class.")] = 10,
    episodes: Annotated[int, typer.Option(min=2, help="How many.")] = 200,
    transductive: Annotated[bool, typer.Option("--transductive", help="Let queries share statistics.")] = False,
    steps: Annotated[int | None, typer.Option(min=0, help="Inner steps.", show_default="checkpoint")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, show_default="checkpoint")] = None,
    seed: Annotated[int, typer.Option(help="Of the first episode.")] = 0,
    data_root: DataRoot = None,
    threads: Threads = 1,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False,
) -> None:
    """Score a checkpoint on few-shot episodes, with a 95 % interval."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    start = load_checkpoint(checkpoint).on(pick_device(device))
    recipe = start.recipe.adjusted(steps, learning_rate)
    data = open_dataset(dataset, start.net_config.image, data_root or load_settings().data_root, CACHE)
    source = EpisodeSampler(data.test, EpisodeShape(ways, shots, queries), start.net_config.image)
    how: Normalisation = "transductive" if transductive else recipe.statistics
    plan = EvaluationConfig(episodes, seed, how)
    accuracies = []
    with reported(Work("evaluation", "episodes", episodes)) as report:
        for accuracy in score_episodes(start.build_net(), start.weights, source, recipe, plan, start.moments):
            accuracies.append(accuracy)
            report.at(len(accuracies), f"{100 * sum(accuracies) / len(accuracies):.1f} % so far")
    row = {
        "checkpoint": checkpoint,
        "digest": start.digest,
        "data": data.test.name,
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "episodes": episodes,
        "seed": seed,
        "inner_steps": recipe.steps,
        "normalisation": how,
        "accuracy": Score(tuple(accuracies)).mean,
        "half_width_95": Score(tuple(accuracies)).half_width,
    }
    output().print_json(json.dumps(row)) if as_json else _print_score(row)


def _print_score(row: dict[str, Any]) -> None:
    title = f"{row['checkpoint']} ({row['digest'][:12]}) on {row['data']}"
    table = Table(title=plain(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    cells = {
        "task": f"{row['ways']}-way {row['shots']}-shot",
        "queries": str(row["queries"]),
        "episodes": str(row["episodes"]),
        "seed": str(row["seed"]),
        "steps": str(row["inner_steps"]),
        "normalisation": row["normalisation"],
        "accuracy, 95 %": f"{100 * row['accuracy']:.2f} ± {100 * row['half_width_95']:.2f} %",
    }
    for heading in cells:
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("task", "normalisation") else "right")
    table.add_row(*cells.values())
    output().print(table)
