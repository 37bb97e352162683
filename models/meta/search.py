"""Architecture search: which variant of conv4 learns best from few images, within limits of time and size.

Every trial draws a candidate from `SPACE`, measures it against the limits, and meta-trains it for a short time. It is
scored at three rungs, on episodes of validation classes, and only the best third goes on to the next rung (successive
halving, Jamieson & Talwalkar 2016, in its asynchronous form, Li et al. 2020). Candidates come from a tree-structured
Parzen estimator (Bergstra et al. 2011) or at random; the first is the preset's own net. Optuna keeps the trials in one
file, and an interrupted search goes on with the trial that it was in.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from models.config import InnerLoopConfig, NetConfig, Preset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import DatasetSplits
from models.errors import AdaptationDiverged, InvalidConfig
from models.inference.export import can_export, example_inputs, export_onnx
from models.inference.predict import BatchPredictor, OnnxPredictor, PredictionRequest, TorchPredictor
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.outer_loop import MetaTrainingState
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset
from models.nets import build
from models.nets.conv4 import block_widths

SPACE: Final[Mapping[str, tuple[Any, ...]]] = {
    "depth": (3, 4, 5, 6),
    "width": (16, 24, 32, 48, 64, 96),
    "growth": (1.0, 1.5, 2.0),
    "kernel": (3, 5),
    "stem": (0, 2, 4),
    "halvings": (2, 3, 4),
    "pooling": ("stride", "max"),
    "global_pool": (False, True),
    "normalisation": ("batch", "image"),
    "adapted": ("all", "late", "head"),
}
"""Values to choose from. All but the last are fields of `NetConfig`; "adapted" says which layers a client adapts: all,
the later half of the blocks and the head, or the head alone. Meta-training always moves all of them."""

RUNGS: Final = (1 / 9, 1 / 3, 1.0)
"""When a trial is scored, as shares of its meta steps."""

_CPU: Final = torch.device("cpu")
_REDUCTION: Final = 3
_WARM_UP_RUNS: Final = 20
_STUDY: Final = "search"
_PRESET_MS: Final = "preset_ms"
_NO_TRIALS: Final = (TrialState.WAITING, TrialState.FAIL)
"""States of candidates that were not begun, or drawn before."""

Outcome = Literal["complete", "stopped early", "too large", "too slow", "diverged", "unfinished"]
Measure = Callable[[Sequence[NetConfig]], list[float]]
"""Nets -> milliseconds that each takes to predict one image, measured at the same time."""


@dataclass(frozen=True)
class SearchConfig:
    """Settings of a search.

    Attributes:
        preset: the net that candidates are variants of, and how they are trained and used.
        max_mb: most megabytes (10^6 bytes) of a net's float32 weights.
        max_ms: most milliseconds per image. None: as many as the preset's own net takes; infinite: no limit.
        meta_steps: of a trial that goes on to the last rung; a multiple of 9.
        n_way: classes of a validation episode.
        n_shot: its support images per class.
        n_query: its queries per class.
        episodes: validation episodes, the same for every candidate.
        sampler: "tpe" learns from earlier trials; "random" does not.
        seed: of all random draws.
    """

    preset: Preset
    max_mb: float = 4.0
    max_ms: float | None = None
    meta_steps: int = 270
    n_way: int = 20
    n_shot: int = 1
    n_query: int = 3
    episodes: int = 60
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset.net_config.kind != "conv4":
            raise InvalidConfig(
                f"the preset has the {self.preset.net_config.kind} net; a search varies conv4: choose the preset "
                "omniglot or mini-imagenet"
            )
        if self.meta_steps < 9 or self.meta_steps % 9:
            raise InvalidConfig(f"meta_steps of a trial is {self.meta_steps}; allowed: multiples of 9")

    @property
    def rungs(self) -> tuple[int, ...]:
        """Meta steps after which a trial is scored."""
        return tuple(round(share * self.meta_steps) for share in RUNGS)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON data."""
        preset = {name: part.to_json() for name, part in vars(self.preset).items()}
        return {**{name: value for name, value in vars(self).items() if name != "preset"}, "preset": preset}


@dataclass(frozen=True)
class Candidate:
    """A net and the inner loop that it is used with."""

    net_config: NetConfig
    serve: InnerLoopConfig


@dataclass(frozen=True)
class TrialResult:
    """What is known of a trial.

    Attributes:
        number: of the trial, from 0.
        outcome: whether it reached the last rung, or why not.
        choices: value chosen for each name of `SPACE`.
        accuracy: on validation episodes at its last rung, 0 to 1; None before the first.
        meta_step: of that rung.
        ms: milliseconds per image; None if not measured.
        mb: megabytes of the net's weights.
        seconds: that the trial took, by the clock of the search.
    """

    number: int
    outcome: Outcome
    choices: Mapping[str, Any]
    accuracy: float | None
    meta_step: int
    ms: float | None
    mb: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The result as JSON data."""
        return asdict(self)


def make_candidate(preset: Preset, choices: Mapping[str, Any]) -> Candidate:
    """Build the candidate of values from `SPACE`."""
    fields = {name: value for name, value in choices.items() if name != "adapted"}
    net_config = replace(preset.net_config, **fields)
    frozen: tuple[tuple[str, float], ...] = ()
    if choices["adapted"] == "head":
        frozen = (("block*", 0.0),)
    elif choices["adapted"] == "late":
        frozen = tuple((f"block{number}.*", 0.0) for number in range(1, net_config.depth // 2 + 1))
    return Candidate(net_config, replace(preset.serve, lr_multipliers=(*preset.serve.lr_multipliers, *frozen)))


def preset_choices(preset: Preset) -> dict[str, Any]:
    """The values from `SPACE` that give the preset's own net."""
    return {name: getattr(preset.net_config, name) for name in SPACE if name != "adapted"} | {"adapted": "all"}


def weight_megabytes(config: NetConfig) -> float:
    """Megabytes (10^6 bytes) of the float32 weights of a conv4 net, without a head. The net is not built."""
    channels, weights = config.image.channels, 0
    for index, width in enumerate(block_widths(config)):
        kernel = config.stem if index == 0 and config.stem else config.kernel
        weights += width * (channels * kernel * kernel + 2)  # with scale and shift
        channels = width
    return 4 * weights / 1e6


def prediction_milliseconds(nets: Sequence[NetConfig], runs: int = 200) -> list[float]:
    """Median processor time of one thread for predicting one image with each net, as the service does it on the CPU.

    With the ONNX graph if the packages for exporting it are installed, otherwise in torch. Without preprocessing, which
    is the same for every candidate. The nets take turns, so that what else the machine is doing affects all alike.
    """
    predictions = [_prediction(net) for net in nets]
    times: list[list[float]] = [[] for _ in nets]
    for number in range(-_WARM_UP_RUNS, runs):
        for predict, of_net in zip(predictions, times, strict=True):
            began = time.process_time()
            predict()
            if number >= 0:
                of_net.append(time.process_time() - began)
    return [1000 * statistics.median(of_net) for of_net in times]


@functools.lru_cache(maxsize=2)  # exporting takes seconds, and every candidate is compared with the preset's net
def _prediction(config: NetConfig) -> Callable[[], object]:
    """Prepare the prediction of one image."""
    net = build(config)
    images, weights = example_inputs(net)
    predictor: BatchPredictor
    if can_export():
        predictor = OnnxPredictor(export_onnx(net), config)
    else:
        predictor = TorchPredictor(net, _CPU)
    request = PredictionRequest(predictor.serving_weights(weights), images[:1].numpy())
    return functools.partial(predictor.predict, [request])


def best_result(results: Sequence[TrialResult]) -> TrialResult | None:
    """The most accurate complete trial, the faster one of equals; None if no trial is complete."""
    complete = [result for result in results if result.outcome == "complete"]
    return max(complete, key=lambda each: (each.accuracy or 0.0, -(each.ms or 0.0)), default=None)


class Search:
    """A search whose trials are kept in a folder. One process at a time may run it.

    Args:
        config: settings. Those of a search that is resumed must be the same.
        data: training and validation classes.
        folder: created if missing.
        threads: CPU threads that the tasks of a meta step are spread over.
        measure: of the milliseconds per image.
        device: to train and score candidates on. Their time per image is measured on the CPU in any case.

    Raises:
        InvalidConfig: the folder has a search with other settings, or its `trials.log` is damaged.
    """

    def __init__(
        self,
        config: SearchConfig,
        data: DatasetSplits,
        folder: Path,
        threads: int = 1,
        measure: Measure = prediction_milliseconds,
        device: torch.device = _CPU,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._data, self._folder, self._threads = config, data, folder, threads
        self._measure, self._device = measure, device
        self._storage, self._study = _open_study(folder / "trials.log", config.rungs[0])
        settings = {**config.to_json(), "data": dict(data.record)}
        if device != _CPU:  # its scores and its clock are others
            settings["device"] = device.type
        known = self._study.user_attrs.get("settings")
        if known is None:
            self._study.enqueue_trial(preset_choices(config.preset), skip_if_exists=True)
            self._study.set_user_attr("settings", settings)
        elif known != settings:
            raise InvalidConfig(
                f"{folder} has a search with other settings: {_differences(known, settings)}; pass another folder, or "
                "the settings of that search to resume it"
            )

    @property
    def spent_s(self) -> float:
        """Seconds that the trials have taken so far, also in earlier processes."""
        return sum(float(trial.user_attrs.get("seconds", 0.0)) for trial in self._study.trials)

    def results(self) -> list[TrialResult]:
        """All trials that have begun, in order. Draws of a candidate that was drawn before are left out."""
        return [_result(trial) for trial in self._study.trials if trial.state not in _NO_TRIALS]

    def run(
        self, budget_s: float, most_trials: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[TrialResult]:
        """Run trials and yield what is known of a trial whenever it was scored or has ended.

        Args:
            budget_s: seconds for all trials, those of earlier processes included. A trial in progress is saved then
                and goes on when the search is resumed with more time.
            most_trials: number of trials after which the search ends; None for no limit.
            clock: seconds that count. `time.process_time` leaves out what other programs do on a busy machine.
        """
        end = clock() + budget_s - self.spent_s
        while clock() < end:
            trial = self._next_trial(most_trials)
            if trial is None:
                return
            yield from self._run_trial(trial, end, clock)

    def final_training(self, result: TrialResult, data: DatasetSplits, meta_steps: int) -> TrainingRun:
        """Return the full training of a candidate. Its checkpoint is ``winner-NUMBER.safetensors`` in the folder.

        Args:
            result: of the candidate.
            data: what to train on, usually with the classes that the search validated on.
            meta_steps: how long.
        """
        candidate = make_candidate(self._config.preset, result.choices)
        path = self._folder / f"winner-{result.number}.safetensors"
        return self._training(candidate, path, meta_steps, data.record)

    def _training(self, candidate: Candidate, path: Path, meta_steps: int, record: Mapping[str, Any]) -> TrainingRun:
        meta = replace(self._config.preset.meta, meta_steps=meta_steps, seed=self._config.seed)
        data = {"algorithm": meta.algorithm, "sets": [{**record, "share": 1.0}]}
        plan = TrainingRunConfig(candidate.net_config, self._config.preset.recipe, meta, data)
        return TrainingRun(plan, candidate.serve, path, self._device, self._threads)

    def _next_trial(self, most_trials: int | None) -> Trial | None:
        """The trial that was interrupted, or else a new one. Draws depend on the trial's number and earlier trials."""
        trials = self._study.get_trials(deepcopy=False)
        interrupted = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        number = interrupted[0] if interrupted else sum(trial.state != TrialState.WAITING for trial in trials)
        seed = (self._config.seed << 16) + number
        self._study.sampler = (
            optuna.samplers.RandomSampler(seed)
            if self._config.sampler == "random"
            else optuna.samplers.TPESampler(seed=seed)
        )
        if interrupted:
            study_id = self._storage.get_study_id_from_name(_STUDY)
            return Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))
        begun = sum(trial.state not in _NO_TRIALS for trial in trials)
        return None if most_trials is not None and begun >= most_trials else self._study.ask()

    def _run_trial(self, trial: Trial, end: float, clock: Callable[[], float]) -> Iterator[TrialResult]:
        began, earlier = clock(), float(trial.user_attrs.get("seconds", 0.0))
        if self._is_repeated(trial):  # the sampler does not count failed trials
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for outcome in self._advance(trial, end, clock):
            trial.set_user_attr("seconds", earlier + clock() - began)
            if outcome == "complete":
                self._study.tell(trial, self._frozen(trial).intermediate_values[self._config.meta_steps])
            elif outcome != "unfinished":
                trial.set_user_attr("outcome", outcome)
                self._study.tell(trial, state=TrialState.PRUNED)
            yield _result(self._frozen(trial))

    def _advance(self, trial: Trial, end: float, clock: Callable[[], float]) -> Iterator[Outcome]:
        """Train and score a trial; yield "unfinished" at each rung, and at last its outcome or what it is out of time.

        On the CPU, training is deterministic, so a trial that is trained again from its last saved checkpoint gets the
        same scores.
        """
        candidate, rungs = make_candidate(self._config.preset, _draw(trial)), self._config.rungs
        rejected = self._check_limits(trial, candidate.net_config)
        if rejected is not None:
            yield rejected
            return
        path = self._folder / "trials" / f"{trial.number:04}.safetensors"
        run = self._training(candidate, path, self._config.meta_steps, self._data.record)
        scored = set(self._frozen(trial).intermediate_values)
        steps = (progress.meta_step for progress in run.run([WeightedDataset(self._data.train)]))
        try:
            for step in chain([run.state.meta_step], steps):
                if step in rungs and step not in scored:
                    trial.report(self._score(candidate, run.state), step)
                    if step < rungs[-1] and trial.should_prune():
                        yield "stopped early"
                        return
                    if step < rungs[-1]:
                        yield "unfinished"
                if step == rungs[-1]:
                    yield "complete"
                elif clock() >= end:
                    run.save()
                    yield "unfinished"
                    return
        except AdaptationDiverged:
            yield "diverged"

    def _is_repeated(self, trial: Trial) -> bool:
        """Whether an earlier trial has the same candidate, whose scores would be the same."""
        choices = _draw(trial)
        return any(earlier.params == choices for earlier in self._study.get_trials(deepcopy=False)[: trial.number])

    def _check_limits(self, trial: Trial, net_config: NetConfig) -> Outcome | None:
        """Measure a net before it is trained. The preset's own net is trained in any case, for comparison."""
        mb = weight_megabytes(net_config)
        trial.set_user_attr("mb", mb)
        if mb > self._config.max_mb and trial.number > 0:
            return "too large"
        same = (
            other.user_attrs["ms"]
            for other in self._study.get_trials(deepcopy=False)
            if "ms" in other.user_attrs and make_candidate(self._config.preset, other.params).net_config == net_config
        )
        ms = next(same, None) or self._milliseconds(net_config)
        trial.set_user_attr("ms", ms)
        limit = self._preset_ms() if self._config.max_ms is None else self._config.max_ms
        return "too slow" if ms > limit and trial.number > 0 else None

    def _milliseconds(self, net_config: NetConfig) -> float:
        """Milliseconds per image, corrected by how much slower than at first the preset's own net is now."""
        usual = self._config.preset.net_config
        if net_config == usual:
            return self._preset_ms()
        usual_now, ms = self._measure([usual, net_config])
        return self._preset_ms() * ms / usual_now

    def _preset_ms(self) -> float:
        """Milliseconds that the preset's own net takes, as measured once when the search began."""
        if _PRESET_MS not in self._study.user_attrs:
            self._study.set_user_attr(_PRESET_MS, self._measure([self._config.preset.net_config])[0])
        return float(self._study.user_attrs[_PRESET_MS])

    def _score(self, candidate: Candidate, state: MetaTrainingState) -> float:
        """Accuracy on the validation episodes, 0 to 1."""
        config, image = self._config, candidate.net_config.image
        source = EpisodeSampler(self._data.test, EpisodeShape(config.n_way, config.n_shot, config.n_query), image)
        plan = EvaluationConfig(config.episodes, config.seed, candidate.serve.statistics)
        net, state = build(candidate.net_config).to(self._device), state.on(self._device)
        return Score(tuple(evaluate(net, state.start, source, candidate.serve, plan, state.moments))).mean

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the settings of two searches, in words. A device that is not named is the CPU."""
    before, now = ({"device": _CPU.type, **settings} for settings in (before, now))
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    values = {name: (before.get(name), now.get(name)) for name in names}
    return ", ".join(
        f"{name} differs" if isinstance(was, dict | list) else f"{name} was {was} and is {value}"
        for name, (was, value) in values.items()
    )


def _open_study(log: Path, first_rung: int) -> tuple[JournalStorage, optuna.Study]:
    _cut_unfinished_line(log)
    try:
        storage = JournalStorage(JournalFileBackend(str(log)))
        return storage, optuna.create_study(
            storage=storage,
            study_name=_STUDY,
            direction="maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(first_rung, _REDUCTION),
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError) as error:  # of a line that is no JSON, or other JSON
        raise InvalidConfig(
            f"{log} is damaged ({type(error).__name__}: {error}); restore it, or pass another folder to search anew"
        ) from error


def _cut_unfinished_line(log: Path) -> None:
    """Remove what a full disk or a power failure left of a line. Optuna would append to it and then read neither."""
    if not log.exists() or log.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock = JournalFileSymlinkLock(str(log))
    lock.acquire()
    try:
        content = log.read_bytes()
        with log.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _draw(trial: Trial) -> dict[str, Any]:
    """Draw a trial's candidate; later calls return the same."""
    return {name: trial.suggest_categorical(name, values) for name, values in SPACE.items()}


def _result(trial: FrozenTrial) -> TrialResult:
    outcome: Outcome = trial.user_attrs.get("outcome", "complete" if trial.state.is_finished() else "unfinished")
    step = trial.last_step
    return TrialResult(
        number=trial.number,
        outcome=outcome,
        choices=dict(trial.params),
        accuracy=None if step is None else trial.intermediate_values[step],
        meta_step=step or 0,
        ms=trial.user_attrs.get("ms"),
        mb=float(trial.user_attrs.get("mb", 0.0)),
        seconds=float(trial.user_attrs.get("seconds", 0.0)),
    )
