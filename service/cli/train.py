"""The commands `anole train` and `anole evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from models.adaptation.allocator import TRAINING_BLOCK_BYTES, keep_freed_memory
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import PRESETS, InnerLoopConfig, LrMultipliers, NetConfig, Precision, preset
from models.data.episodes import EpisodeModalities, EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.images.preprocessing import ImageConfig
from models.inference.embedding import embedder_for
from models.inference.export import can_export, write_graph
from models.meta.covariance_prior import CovarianceTraining
from models.meta.curve import can_plot
from models.meta.evaluation import EmbeddedEpisodes, EvaluationConfig, Normalisation, Score
from models.meta.evaluation import evaluate as score_episodes
from models.meta.memory import MemoryConfig, TaskMemory, load_memory, require_body
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset
from models.modalities.rows import Present
from models.nets import build
from models.nets.multimodal import IMAGE_PREFIX, encoder_multipliers
from models.weights import Weights
from service.cli.console import AsJson, notices, output, plain, print_json, progress, table
from service.cli.entry_point import INTERRUPTED
from service.cli.files import require_writable
from service.cli.train_covariance import train_covariance
from service.cli.train_memory import write_memory
from service.runtime.device import device_for, pick_device
from service.settings import disable_onnxruntime_telemetry, load_settings

CACHE = Path.home() / ".cache" / "anole"

DataSetName = Annotated[
    str,
    typer.Option(
        "--dataset", help="omniglot, omniglot-strokes, mini-imagenet, textures, surface-notes or folder:PATH."
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data sets.", show_default="ANOLE_DATA_ROOT")]
Threads = Annotated[int, typer.Option(min=1, help="Number of CPU threads.")]
AllowFactory = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE:CALLABLE",
        help="Backbone factory that the checkpoint may import and call.",
        show_default="ANOLE_ALLOW_FACTORY, or only Anole's own",
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to compute on.")]
InnerLrMultipliers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=X",
        help="Multiplier of the inner learning rate for matching weights, in training and in serving, such as "
        "'block*=0.1'. 0 freezes them.",
    ),
]
MetaLrMultipliers = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN=X", help="Multiplier of the meta step for matching weights. The last match wins."),
]
PrecisionName = Annotated[
    Precision | None,
    typer.Option(
        help="Precision of the inner steps, in training and in serving. float16 requires CUDA.", show_default="preset"
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset", help=f"Preset of net and hyperparameters: {', '.join(PRESETS)}.", show_default="by data set"
    ),
]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Use less memory and more time: recompute each block in the backward pass.")
]

ExportOnnx = Annotated[
    bool, typer.Option("--export-onnx", help="Also write the net's ONNX graph beside the checkpoint: faster to serve.")
]

_SPREADS_TASKS = ("reptile", "bayesian-reptile")
"""Algorithms whose tasks are distributed over the threads."""

Algorithm = Annotated[
    Literal["reptile", "bayesian-reptile", "fomaml", "maml", "covariance"],
    typer.Option(
        help="Meta-learning algorithm. bayesian-reptile also learns how far each scale and shift of the net may vary "
        "between tasks, and its versions report their uncertainty. covariance needs --start."
    ),
]

Start = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint to train on from: of a frozen backbone for --algorithm covariance, of the preset's net for "
        "bayesian-reptile and presets with two modalities, or of the image encoder of such a preset.",
        show_default="none",
    ),
]

Modality = Annotated[
    Present,
    typer.Option(help="Modalities of the tasks, for nets that take an image and a second one, such as a note."),
]

AdaptModality = Annotated[
    Present | None,
    typer.Option(
        help="Encoders that inner steps and meta steps change. Another one keeps its weights; the head always adapts.",
        show_default="both, or from the checkpoint",
    ),
]

QueryModality = Annotated[Present | None, typer.Option(help="Modalities of the queries.", show_default="--modality")]

WithinLine = Annotated[
    bool, typer.Option("--within-line", help="Draw the classes of an episode from one product line.")
]

Transductive = Annotated[bool, typer.Option("--transductive", help="Normalise all queries of an episode together.")]
InnerSteps = Annotated[
    int | None, typer.Option(min=0, help="Number of inner steps.", show_default="from the checkpoint")
]

ModalityDropout = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of the training tasks that lack a modality, so that clients may lack it too.",
        show_default="preset",
    ),
]

Shares = Annotated[
    list[float] | None, typer.Option(min=0, help="Share of the tasks from each data set.", show_default="equal")
]

TrainingSets = Annotated[
    list[str],
    typer.Option(
        "--dataset",
        help="omniglot, omniglot-strokes, mini-imagenet, textures, surface-notes, folder:PATH. Repeat to mix several.",
    ),
]

TrainingRate = Annotated[
    float | None,
    typer.Option(min=0, help="Learning rate of the inner steps. MAML needs a lower one.", show_default="preset"),
]

Remember = Annotated[
    Path | None,
    typer.Option(
        help="Also write a memory of tasks, for anole evaluate --memory: what adapting training tasks changed.",
        show_default="none",
    ),
]

RememberTasks = Annotated[int, typer.Option(min=1, help="Tasks of the memory. Each takes twice the net's weights.")]

Recall = Annotated[
    Path | None,
    typer.Option(
        help="Memory of tasks, from anole train --memory. An episode starts from what similar tasks changed, if "
        "cross-validation of its support does not get worse.",
        show_default="none",
    ),
]

SaveEvery = Annotated[float, typer.Option(min=0, help="Seconds between checkpoints. 0: every meta step.")]


def train(
    dataset: TrainingSets,
    out: Annotated[Path, typer.Option(help="Checkpoint to write. If it exists, training resumes from it.")],
    ways: Annotated[int | None, typer.Option(min=2, help="Classes per training task.", show_default="preset")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Images per class.", show_default="preset")] = None,
    share: Shares = None,
    algorithm: Algorithm = "reptile",
    start: Start = None,
    preset_name: PresetName = None,
    meta_steps: Annotated[int | None, typer.Option(min=1, help="Total meta steps.", show_default="preset")] = None,
    learning_rate: TrainingRate = None,
    inner_rate: InnerLrMultipliers = None,
    meta_rate: MetaLrMultipliers = None,
    precision: PrecisionName = None,
    recompute: Recompute = False,
    modality: Modality = "both",
    adapt_modality: AdaptModality = None,
    modality_dropout: ModalityDropout = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    data_root: DataRoot = None,
    threads: Threads = 1,
    device: Device = "auto",
    save_every_s: SaveEvery = 180.0,
    export: ExportOnnx = False,
    memory: Remember = None,
    memory_tasks: RememberTasks = MemoryConfig.capacity,
    as_json: AsJson = False,
) -> None:
    """Meta-train a checkpoint.

    If the command is interrupted, run it again to resume.
    """
    _require_exporter(export)
    chosen = preset(preset_name or (dataset[0] if dataset[0] in PRESETS and len(dataset) == 1 else "surfaces"))
    _require_start(algorithm, start, chosen.net_config)
    _require_second(chosen.net_config, modality, adapt_modality)
    if algorithm == "covariance":
        train_covariance(str(start), dataset, out, CovarianceTraining(seed=seed), data_root, threads, as_json=as_json)
        return
    torch.set_num_threads(1 if algorithm in _SPREADS_TASKS else threads)
    keep_freed_memory(TRAINING_BLOCK_BYTES)
    kept = _given(n_way=ways, train_shots=shots, meta_steps=meta_steps, seed=seed, modality_dropout=modality_dropout)
    kept |= _given(lr_multipliers=_lr_multipliers(meta_rate, adapt_modality))
    meta = replace(chosen.meta, algorithm=algorithm, modalities=modality, **kept)
    sets, records = _mixture(dataset, share, chosen.net_config.image, data_root)
    multipliers = _lr_multipliers(inner_rate, adapt_modality)
    shared = _given(lr_multipliers=multipliers, precision=precision, recompute=recompute or None)
    recipe = replace(chosen.recipe.adjusted(None, learning_rate), **shared)
    begun = _begun(start, chosen.net_config, meta.seed)
    data = {"algorithm": algorithm, "sets": records, **({"start": begun[0]} if begun else {})}
    plan = TrainingRunConfig(chosen.net_config, recipe, meta, data)
    serve = _served(replace(chosen.serve, **shared), algorithm)
    run = TrainingRun(plan, serve, out, pick_device(device), threads, begun[1] if begun else None)
    _notice_without_plot()
    train_to_the_end(run, sets, meta.meta_steps, save_every_s)
    if export:
        write_graph(out)
    if memory is not None:
        write_memory(load_checkpoint(out).on(pick_device(device)), sets, meta, memory, memory_tasks)
    _print_trained(out, meta.meta_steps, as_json=as_json)


def _notice_without_plot() -> None:
    if not can_plot():
        notices().print(plain("the learning curve is written without a plot; to get one: pip install -e '.[plot]'"))


def _print_trained(out: Path, meta_steps: int, *, as_json: bool) -> None:
    digest = load_checkpoint(out).digest
    if as_json:
        print_json({"checkpoint": str(out), "meta_steps": meta_steps, "digest": digest})
    else:
        output().print(plain(f"{out}: {meta_steps} meta steps, digest {digest[:12]}"))


def _require_second(net: NetConfig, *modalities: Present | None) -> None:
    if net.second == "none" and not {*modalities} <= {"both", None}:
        names = " or ".join(name for name, each in PRESETS.items() if each.net_config.second != "none")
        raise typer.BadParameter(
            f"the options for modalities need a net that takes a second modality, such as that of the preset {names}"
        )


def _require_start(algorithm: str, start: str | None, net: NetConfig) -> None:
    if algorithm == "covariance" and start is None:
        raise typer.BadParameter("--algorithm covariance needs --start NAME, a checkpoint with a frozen backbone")
    if start is not None and algorithm not in ("covariance", "bayesian-reptile") and net.second == "none":
        raise typer.BadParameter(
            f"--start needs --algorithm covariance or bayesian-reptile, not {algorithm}: the weights of a frozen "
            "backbone do not change, and only its covariance prior is trained; to train a net from nothing, leave out "
            "--start"
        )


def _served(recipe: InnerLoopConfig, algorithm: str) -> InnerLoopConfig:
    """The inner loop that the checkpoint is used with. The linear head has no posterior."""
    bayesian = algorithm == "bayesian-reptile" and recipe.head != "linear"
    return replace(recipe, uncertainty="bayes") if bayesian else recipe


def _begun(start: str | None, net: NetConfig, seed: int) -> tuple[str, Weights] | None:
    """Return the digest of the checkpoint to train on from, and its weights.

    Its net must be `net`, or the image encoder of `net`; the other encoder's weights are then drawn.
    """
    if start is None:
        return None
    checkpoint = load_checkpoint(start)
    if checkpoint.net_config == net:
        return checkpoint.digest, checkpoint.weights
    if net.second != "none" and checkpoint.net_config == replace(net, second="none", second_size=0):
        encoder = {f"{IMAGE_PREFIX}{name}": tensor for name, tensor in checkpoint.weights.items()}
        return checkpoint.digest, {**build(net, seed).start(), **encoder}
    raise typer.BadParameter(
        f"--start {start} has the net {checkpoint.net_config.to_json()}, but the preset has {net.to_json()}; pass the "
        "--preset that the checkpoint was trained with, or one whose image encoder has the checkpoint's net"
    )


def _require_exporter(wanted: bool) -> None:
    if wanted and not can_export():
        raise typer.BadParameter("--export-onnx needs the packages onnx and onnxscript: pip install -e '.[export]'")


def train_to_the_end(run: TrainingRun, sets: list[WeightedDataset], meta_steps: int, save_every_s: float) -> None:
    """Train and report progress. An interrupt from the keyboard saves the checkpoint."""
    require_writable(run.path)
    done = run.state.meta_step
    if done:
        rest = "training is complete" if done == meta_steps else "resuming"
        notices().print(plain(f"{run.path} is at meta step {done} of {meta_steps}; {rest}"))
    try:
        with progress("training", meta_steps, done) as report:
            for step in run.run(sets, save_every_s):
                saved = f", saved {step.saved_meta_step}" if step.saved_meta_step else ""
                report(step.meta_step, f"loss {step.loss:.3f}{saved}")
    except KeyboardInterrupt:
        run.save()
        notices().print(
            plain(
                f"interrupted: {run.path} is saved at meta step {run.state.meta_step}; run the command again to resume"
            )
        )
        raise typer.Exit(INTERRUPTED) from None


def _given(**values: object) -> dict[str, Any]:
    """Return the values that are not None. The others come from the preset."""
    return {name: value for name, value in values.items() if value is not None}


def _lr_multipliers(texts: list[str] | None, adapt_modality: Present | None) -> LrMultipliers | None:
    """Read PATTERN=X options as pairs, then --adapt-modality. With neither, return None: the preset's stay."""
    pairs = []
    for text in texts or []:
        pattern, _, multiplier = text.rpartition("=")
        try:
            pairs.append((pattern, float(multiplier)))
        except ValueError:
            pattern = ""
        if not pattern:
            raise typer.BadParameter(f"{text!r} is not a multiplier; give PATTERN=X, for example 'block*=0.1'")
    return (*pairs, *(encoder_multipliers(adapt_modality) if adapt_modality else ())) or None


def _mixture(
    names: list[str], shares: list[float] | None, spec: ImageConfig, data_root: Path | None
) -> tuple[list[WeightedDataset], list[dict[str, Any]]]:
    """Open the training sets. Return them with the records that the checkpoint keeps of them."""
    if shares and len(shares) != len(names):
        raise typer.BadParameter(
            f"{len(names)} data sets were given with {len(shares)} shares; give one share per data set, or none"
        )
    root = data_root or load_settings().data_root
    opened = [open_dataset(name, spec, root, CACHE) for name in names]
    weights = shares or [1.0] * len(names)
    sets = [WeightedDataset(data.train, weight) for data, weight in zip(opened, weights, strict=True)]
    return sets, [{**data.record, "share": weight} for data, weight in zip(opened, weights, strict=True)]


def evaluate(
    checkpoint: Annotated[str, typer.Option(help="Name of a shipped checkpoint, or a path.")],
    dataset: DataSetName,
    ways: Annotated[int, typer.Option(min=2, help="Classes per episode.")] = 5,
    shots: Annotated[int, typer.Option(min=1, help="Support images per class.")] = 5,
    queries: Annotated[int, typer.Option(min=1, help="Query images per class.")] = 10,
    episodes: Annotated[int, typer.Option(min=2, help="Number of episodes.")] = 200,
    transductive: Transductive = False,
    steps: InnerSteps = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Learning rate of the inner steps.", show_default="from the checkpoint")
    ] = None,
    modality: Modality = "both",
    query_modality: QueryModality = None,
    adapt_modality: AdaptModality = None,
    within_line: WithinLine = False,
    seed: Annotated[int, typer.Option(help="Seed of the first episode.")] = 0,
    data_root: DataRoot = None,
    threads: Threads = 1,
    device: Device = "auto",
    allow_factory: AllowFactory = None,
    memory: Recall = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of a checkpoint on few-shot episodes, with a 95 % confidence interval."""
    torch.set_num_threads(threads)
    keep_freed_memory(TRAINING_BLOCK_BYTES)
    disable_onnxruntime_telemetry()
    settings = load_settings(allow_factory=allow_factory or None)
    start = load_checkpoint(checkpoint, settings.allow_factory)
    used = device_for(start, device)
    start = start.on(used)
    recipe = _adapting(start.recipe.adjusted(steps, learning_rate), adapt_modality)
    image = replace(start.net_config.image, fit="stretch")  # a dataset's images have one shape
    data = open_dataset(dataset, image, data_root or settings.data_root, CACHE)
    _require_second(start.net_config, modality, query_modality, adapt_modality)
    modalities = EpisodeModalities(start.net_config.second_size, modality, query_modality or modality)
    source = EpisodeSampler(data.test, EpisodeShape(ways, shots, queries), image, float(within_line), modalities)
    how: Normalisation = "transductive" if transductive else recipe.statistics
    recalled = None if memory is None else _recalled(memory, start)
    accuracies = _accuracies(start, source, recipe, EvaluationConfig(episodes, seed, how, memory=recalled), used)
    row = {
        "checkpoint": checkpoint,
        "digest": start.digest,
        "data": data.test.name,
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "episodes": episodes,
        "seed": seed,
        **({} if start.net_config.second == "none" else {"modality": modality, "query_modality": modalities.query}),
        "inner_steps": recipe.steps,
        "normalisation": how,
        **({} if recalled is None else {"memory": recalled.digest}),
        "accuracy": Score(tuple(accuracies)).mean,
        "half_width_95": Score(tuple(accuracies)).half_width,
    }
    print_json(row) if as_json else _print_score(row)


def _adapting(recipe: InnerLoopConfig, adapt_modality: Present | None) -> InnerLoopConfig:
    """The inner loop, adapting the encoders that are named; None leaves it as it is."""
    if adapt_modality is None:
        return recipe
    return replace(recipe, lr_multipliers=(*recipe.lr_multipliers, *encoder_multipliers(adapt_modality)))


def _recalled(path: Path, start: Checkpoint) -> TaskMemory:
    require_body(start.weights)
    return load_memory(path, start.digest)


def _accuracies(
    start: Checkpoint, source: EpisodeSampler, recipe: InnerLoopConfig, plan: EvaluationConfig, device: torch.device
) -> list[float]:
    """Evaluate and report progress. A frozen backbone embeds the images of each episode first."""
    net, accuracies = start.build_net(), []
    embedder = embedder_for(start, net, device)
    tasks = source if embedder is None else EmbeddedEpisodes(source, embedder, flips=recipe.flip_augment)
    with progress("evaluation", plan.episodes) as report:
        for accuracy in score_episodes(net, start.weights, tasks, recipe, plan, start.moments):
            accuracies.append(accuracy)
            report(len(accuracies), f"{100 * sum(accuracies) / len(accuracies):.1f} % so far")
    return accuracies


def _print_score(row: dict[str, Any]) -> None:
    title = f"{row['checkpoint']} ({row['digest'][:12]}) on {row['data']}"
    cells = {
        "task": f"{row['ways']}-way {row['shots']}-shot",
        "queries": str(row["queries"]),
        "episodes": str(row["episodes"]),
        "seed": str(row["seed"]),
        "steps": str(row["inner_steps"]),
        "normalisation": row["normalisation"],
        "accuracy, 95 %": f"{100 * row['accuracy']:.2f} ± {100 * row['half_width_95']:.2f} %",
    }
    score = table(*cells, numbers=cells.keys() - {"task", "normalisation"})
    score.add_row(*cells.values())
    output().print(plain(title))
    output().print(score)
