"""The command `anole search`."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import typer

from models.adaptation.allocator import TRAINING_BLOCK_BYTES, keep_freed_memory
from models.atomic_files import write_atomically
from models.checkpoint import load_checkpoint
from models.config import preset
from models.data.registry import DatasetSplits, open_dataset
from models.inference.export import can_export, write_graph
from models.meta.curve import can_plot
from models.meta.training import TrainingRun, WeightedDataset
from service.cli.console import FAILED, NO_VALUE, AsJson, notices, output, percent, plain, print_json, progress, table
from service.cli.entry_point import INTERRUPTED
from service.cli.files import make_folder
from service.cli.train import CACHE, DataRoot, Device, PresetName, Threads, train_to_the_end
from service.runtime.device import pick_device
from service.settings import disable_onnxruntime_telemetry, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.meta.search import Search, TrialResult

Dataset = Annotated[str, typer.Option(help="omniglot, mini-imagenet, textures, surface-notes or folder:PATH.")]
Budget = Annotated[
    float,
    typer.Option(
        min=0,
        max=1_000_000,
        help="Minutes of processor time, for each of the threads, for all trials, including those of a search that is "
        "resumed. On a machine that does nothing else, about that many minutes. On a GPU, minutes by the clock. The "
        "winner's training takes its own time after it.",
    ),
]
MaxMs = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Most milliseconds to predict one image, on one thread. inf: no limit.",
        show_default="those of the preset's net",
    ),
]
MaxMb = Annotated[float, typer.Option(min=0, help="Most megabytes of a net's weights.")]
Sampler = Annotated[
    Literal["tpe", "random"], typer.Option(help="tpe learns from earlier trials; random does not, for comparison.")
]
TrialSteps = Annotated[
    int, typer.Option(min=9, help="Meta steps of a trial. Two thirds of all trials end after a ninth of them.")
]


def search(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder to write. If it has this search already, the search is resumed.")],
    budget_minutes: Budget = 90.0,
    max_ms_per_image: MaxMs = None,
    max_mb: MaxMb = 4.0,
    ways: Annotated[int, typer.Option(min=2, help="Classes per validation episode.")] = 20,
    shots: Annotated[int, typer.Option(min=1, help="Support images per class.")] = 1,
    episodes: Annotated[int, typer.Option(min=2, help="Number of validation episodes.")] = 60,
    trial_meta_steps: TrialSteps = 270,
    trials: Annotated[int | None, typer.Option(min=1, help="Most trials.", show_default="no limit")] = None,
    sampler: Sampler = "tpe",
    preset_name: PresetName = None,
    meta_steps: Annotated[
        int | None, typer.Option(min=0, help="Meta steps of the winner's training. 0: none.", show_default="preset")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    data_root: DataRoot = None,
    device: Device = "auto",
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Search for a net that learns better from few images, and train it.

    Candidates stay within limits of time and size. They vary the preset's net: depth, width, kernels, stem, pooling,
    normalisation, and which layers a client adapts. Each is trained for a short time and scored on classes that are
    held out of the training classes. The best one is then trained in full, on all training classes, into
    winner-NUMBER.safetensors. Test classes are never used: measure the winner with `anole evaluate`.

    If the command is interrupted, run it again to resume. To go on searching, give more minutes. The winner may be
    trial 0, the preset's own net. If no trial was complete, there is none, and the exit code is 1.
    """
    _require_optuna()
    from models.meta.search import Search, SearchConfig, best_result

    used = pick_device(device)
    torch.set_num_threads(1)  # the tasks of a meta step are distributed over the threads
    keep_freed_memory(TRAINING_BLOCK_BYTES)
    disable_onnxruntime_telemetry()
    chosen = preset(preset_name or (dataset if dataset in ("omniglot", "mini-imagenet") else "mini-imagenet"))
    limits: dict[str, Any] = {"max_mb": max_mb, "max_ms": max_ms_per_image, "meta_steps": trial_meta_steps}
    config = SearchConfig(chosen, n_way=ways, n_shot=shots, episodes=episodes, sampler=sampler, seed=seed, **limits)
    image, root = replace(chosen.net_config.image, fit="stretch"), data_root or load_settings().data_root
    make_folder(out)
    running = Search(config, open_dataset(f"{dataset}:val", image, root, CACHE), out, threads, device=used)
    clock = time.monotonic if used.type == "cuda" else lambda: time.process_time() / threads
    _run_trials(running, out, 60 * budget_minutes, trials, clock)
    results = running.results()
    _write_picture(results, out)
    winner, steps = best_result(results), chosen.meta.meta_steps if meta_steps is None else meta_steps
    made: dict[str, Any] = {"checkpoint": None, "digest": None}
    if winner is not None and steps:
        data = open_dataset(dataset, image, root, CACHE)
        made = _train_winner(running.final_training(winner, data, steps), data, steps)
    if as_json:
        number = None if winner is None else winner.number
        print_json({"winner": number, **made, "trials": [result.to_json() for result in results]})
    else:
        _print_results(results)
    _report_winner(winner, made, quiet=as_json)


def _require_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise typer.BadParameter("anole search needs the package optuna: pip install -e '.[search]'")


def _run_trials(running: Search, folder: Path, budget_s: float, most: int | None, clock: Callable[[], float]) -> None:
    """Run trials and report progress in seconds. An interrupt keeps the finished rungs of the trial in progress."""
    done = running.spent_s
    if done:
        notices().print(plain(f"{folder} has {len(running.results())} trials in {done / 60:.1f} minutes; resuming"))
    best = 0.0
    try:
        with progress("searching, seconds", round(budget_s), round(done)) as report:
            for result in running.run(budget_s, most, clock):
                if result.outcome == "complete":
                    best = max(best, result.accuracy or 0.0)
                known = f"{result.outcome}, {percent(result.accuracy)}"
                report(round(running.spent_s), f"trial {result.number}: {known}; best {percent(best or None)}")
    except KeyboardInterrupt:
        notices().print(plain(f"interrupted: {folder} has the trials so far; run the command again to resume"))
        raise typer.Exit(INTERRUPTED) from None


def _train_winner(run: TrainingRun, data: DatasetSplits, meta_steps: int) -> dict[str, Any]:
    """Train on all training classes. Return path and digest of the checkpoint."""
    train_to_the_end(run, [WeightedDataset(data.train)], meta_steps, 180.0)
    if can_export():
        write_graph(run.path)
    return {"checkpoint": str(run.path), "digest": load_checkpoint(run.path).digest}


def _write_picture(results: list[TrialResult], folder: Path) -> None:
    from models.meta.pareto import plot_pareto

    if can_plot():
        write_atomically(folder / "pareto.png", plot_pareto(results), durable=False)
    else:
        notices().print(plain("no picture of accuracy against time was drawn; to get one: pip install -e '.[plot]'"))


def _print_results(results: list[TrialResult]) -> None:
    """Print the trials, complete ones first and the most accurate first. Choices are the differences to trial 0."""
    numbers = ("trial", "accuracy", "meta steps", "ms", "MB")
    listed = table("trial", "outcome", "accuracy", "meta steps", "ms", "MB", "net", numbers=numbers)
    usual = results[0].choices if results else {}
    for result in sorted(results, key=lambda each: (-each.meta_step, -(each.accuracy or 0.0), each.number)):
        differing = {name: value for name, value in result.choices.items() if value != usual[name]}
        listed.add_row(
            str(result.number),
            result.outcome,
            percent(result.accuracy),
            str(result.meta_step or NO_VALUE),
            NO_VALUE if result.ms is None else f"{result.ms:.3f}",
            f"{result.mb:.2f}",
            ", ".join(f"{name} {value}" for name, value in differing.items()) or "as in the preset",
        )
    output().print(listed)


def _report_winner(winner: TrialResult | None, made: dict[str, Any], *, quiet: bool) -> None:
    """Print which trial won. Without a winner, exit with 1."""
    if winner is None:
        notices().print("no trial was complete: give more minutes, higher limits or fewer --trial-meta-steps")
        raise typer.Exit(FAILED)
    if quiet:
        return
    if made["checkpoint"] is None:
        output().print(f"the winner is trial {winner.number}; it was not trained further")
    else:
        output().print(
            plain(f"the winner is trial {winner.number}: {made['checkpoint']}, digest {made['digest'][:12]}")
        )
