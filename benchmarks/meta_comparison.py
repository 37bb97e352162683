"""Comparison of meta-learning algorithms: equal net, tasks and inner loop, cost of a meta step, equal training time.

On the CPU, time is processor time, to reduce the influence of other load; on a GPU it is elapsed time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Literal

import torch

from benchmarks.measuring import alternate, peak_bytes, reset_peak
from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.data.synthetic import Textures
from models.errors import AdaptationDiverged
from models.images.preprocessing import ImageConfig
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.outer_loop import MetaTrainingState, inner_seeds
from models.meta.training import make_meta_step
from models.nets import Net, build, heads
from models.task import Support
from models.weights import Weights
from service.cli.train import CACHE

Algorithm = Literal["reptile", "fomaml", "maml"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("reptile", "fomaml", "maml")
NAMES: Final[Mapping[Algorithm, str]] = {"reptile": "Reptile", "fomaml": "FOMAML", "maml": "MAML"}

MARKS: Final = (0.125, 0.25, 0.5, 1.0)
"""Shares of the training time after which a start is saved and scored."""
N_SHOT, N_QUERY = 5, 10
MEMORY_STEPS: Final = 2
"""Meta steps in a measurement of the peak memory; the second shows what the first leaves behind."""

_TASKS, _GENERATED_LINES = 1, 24
_IMAGES: Final = ImageConfig(channels=1, side=28, contrast="none")
_WARM_UP_WIDTH: Final = 4
_MIN_SHARE: Final = 1e-3
"""Smallest share of the outer learning rate, which must be above 0, for a step that starts just before the end."""


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of an algorithm.

    Attributes:
        inner: learning rate of the inner steps.
        outer: initial step size of the meta steps: epsilon of Reptile, Adam's learning rate of the others.
    """

    inner: float
    outer: float


LEARNING_RATES: Final[Mapping[Algorithm, LearningRates]] = {
    "reptile": LearningRates(inner=0.3, outer=1.0),
    "fomaml": LearningRates(inner=0.3, outer=1e-2),
    "maml": LearningRates(inner=0.1, outer=5e-3),
}
"""For five inner steps and a minute of training. Chosen by single trials of 20 s on the training characters, with inner
learning rates from 0.03 to 0.6 and Adam's from 0.003 to 0.01; second-order MAML needed the lower inner one."""


@dataclass(frozen=True)
class Setting:
    """The setting for all algorithms.

    Attributes:
        width: channels of the papers' four-block net.
        n_way: classes per task.
        shots: images per class of a training task. Reptile's inner steps use all of them; MAML's use one half, and its
            outer loss the other half.
        meta_batch: tasks per meta step.
        batch_size: images per inner step; the default is all that MAML's inner steps have, as published.
        seed: seed of everything random.
    """

    width: int = 64
    n_way: int = 5
    shots: int = 10
    meta_batch: int = 5
    batch_size: int = 25
    seed: int = 0

    @property
    def net_config(self) -> NetConfig:
        """The four-block net for 28 x 28 grey images."""
        return NetConfig("conv4", _IMAGES, width=self.width)

    def net(self) -> Net:
        """The net with weights drawn from the seed."""
        return build(self.net_config, self.seed)

    def start(self, device: torch.device) -> MetaTrainingState:
        """The start of all trainings: the net's weights and a linear head."""
        net = self.net()
        head = heads.linear_head(net.feature_count, self.n_way, torch.Generator().manual_seed(self.seed))
        return MetaTrainingState({name: tensor.to(device) for name, tensor in {**net.start(), **head}.items()})


@dataclass(frozen=True)
class Entry:
    """One algorithm with its learning rates, at one number of inner steps."""

    algorithm: Algorithm
    inner_steps: int
    rates: LearningRates

    def recipe(self, setting: Setting) -> InnerLoopConfig:
        """Its inner loop: plain gradient steps with a linear head."""
        return InnerLoopConfig(
            steps=self.inner_steps,
            learning_rate=self.rates.inner,
            batch_size=setting.batch_size,
            head="linear",
            statistics="batch",
        )

    def step(
        self, setting: Setting, net: Net, state: MetaTrainingState, supports: Sequence[Support], share: float
    ) -> MetaTrainingState:
        """One meta step on `supports` with `share` (0 to 1) of the outer learning rate."""
        reptile = self.algorithm == "reptile"
        outer_rate = 1e-3 if reptile else self.rates.outer
        meta = MetaTrainingConfig(
            meta_steps=1, algorithm=self.algorithm, outer_learning_rate=outer_rate, n_way=setting.n_way
        )
        size = share * self.rates.outer if reptile else share
        seeds = inner_seeds(setting.seed, state.meta_step, len(supports))
        return make_meta_step(meta)(net, state, supports, self.recipe(setting), size, seeds)


def entries(inner_steps: Sequence[int], rates: Mapping[Algorithm, LearningRates]) -> list[Entry]:
    """All algorithms at each number of inner steps."""
    return [Entry(algorithm, steps, rates[algorithm]) for steps in inner_steps for algorithm in ALGORITHMS]


@dataclass(frozen=True)
class Data:
    """Training classes and test classes, and a description."""

    name: str
    train: ClassDataset
    test: ClassDataset


def open_data(data_root: Path | None) -> Data:
    """Omniglot if a data root is given, otherwise generated surfaces.

    Raises:
        DatasetUnavailable: Omniglot is missing.
    """
    if data_root is None:
        training, test = (
            Textures(_IMAGES.side, _IMAGES.channels, seed=seed, lines=_GENERATED_LINES) for seed in (0, 1)
        )
        return Data("generated surfaces instead of Omniglot (no --data-root)", training, test)
    omniglot = open_dataset("omniglot", _IMAGES, data_root, CACHE)
    return Data("Omniglot, 1200 characters with quarter turns; test on the other 423", omniglot.train, omniglot.test)


class TaskStream:
    """Training tasks by the number of the meta step, the same for every algorithm."""

    def __init__(self, data: Data, setting: Setting, device: torch.device) -> None:
        self._setting, self._device = setting, device
        self._source = EpisodeSampler(data.train, EpisodeShape(setting.n_way, setting.shots), _IMAGES)

    def __call__(self, meta_step: int) -> list[Support]:
        """The meta-batch of a meta step."""
        seeds = inner_seeds(self._setting.seed + _TASKS, meta_step, self._setting.meta_batch)
        return [self._source.support(seed).to(self._device) for seed in seeds]


@dataclass(frozen=True)
class Memory:
    """Memory of a process that runs meta steps.

    Attributes:
        before_bytes: memory before the first one: Python, torch, the net, the tasks.
        added_bytes: peak memory during them minus `before_bytes`.
    """

    before_bytes: int
    added_bytes: int


def meta_step_seconds(
    contest: Iterable[Entry], setting: Setting, tasks: TaskStream, device: torch.device, rounds: int
) -> Mapping[Entry, list[float]]:
    """Seconds of one meta step from the common start, `rounds` times for each entry; the entries alternate."""
    net, start = setting.net(), setting.start(device)
    supports = [tasks(max(number - 1, 0)) for number in range(rounds + 1)]

    def step(entry: Entry, number: int) -> object:
        return entry.step(setting, net, start, supports[number], 1.0)

    times = alternate({entry: partial(step, entry) for entry in contest}, rounds, device=device)
    return {entry: own.processor_s if device.type == "cpu" else own.elapsed_s for entry, own in times.items()}


def memory_by_entry(
    contest: Sequence[Entry], setting: Setting, supports: Sequence[Support], device: torch.device
) -> Iterable[tuple[Entry, Memory]]:
    """Measure the memory of each entry in a new process."""
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for entry in contest:
            yield entry, processes.submit(memory_here, entry, setting, list(supports), device, threads).result()


def memory_here(
    entry: Entry, setting: Setting, supports: Sequence[Support], device: torch.device, threads: int = 1
) -> Memory:
    """Measure the memory of some meta steps in this process, which should be new.

    A tiny net runs first, so that memory for code that torch loads on first use is not counted.

    Raises:
        MemoryUnknown: on a CPU without Linux's /proc.
    """
    torch.set_num_threads(threads)
    supports = [support.to(device) for support in supports]
    tiny = replace(setting, width=_WARM_UP_WIDTH)
    replace(entry, inner_steps=1).step(tiny, tiny.net(), tiny.start(device), supports, 1.0)
    net, state = setting.net(), setting.start(device)
    before = reset_peak(device)
    for _ in range(MEMORY_STEPS):
        state = entry.step(setting, net, state, supports, 1.0)
    return Memory(before, peak_bytes(device) - before)


@dataclass
class Runner:
    """The training of one algorithm.

    Attributes:
        entry: the algorithm.
        state: present state.
        used_s: seconds of training so far.
        saved: (share of the time, state) at each mark.
        diverged: whether the numbers became infinite, which ends the training at the last finite start.
    """

    entry: Entry
    state: MetaTrainingState
    used_s: float = 0.0
    saved: list[tuple[float, MetaTrainingState]] = field(default_factory=list)
    diverged: bool = False


Step = Callable[[MetaTrainingState, Entry, float], MetaTrainingState]
"""State, entry and share of the outer learning rate -> the state after one meta step."""


def train_for_equal_time(
    runners: Sequence[Runner], step: Step, seconds: float, now: Callable[[], float]
) -> Iterator[Runner]:
    """Train all runners for `seconds` of the clock `now`; yields the runner after each meta step.

    The runner with the least time runs next, so that other load affects all alike. The outer learning rate decays
    linearly to 0 with the time used. A first step of each warms up and does not count.
    """
    for runner in runners:
        step(runner.state, runner.entry, 1.0)
    while unfinished := [runner for runner in runners if len(runner.saved) < len(MARKS)]:
        runner = min(unfinished, key=lambda candidate: candidate.used_s)
        advance(runner, step, seconds, now)
        yield runner


def advance(runner: Runner, step: Step, seconds: float, now: Callable[[], float]) -> None:
    """One timed meta step; saves the state at every mark that it passes."""
    began = now()
    try:
        runner.state = step(runner.state, runner.entry, max(1 - runner.used_s / seconds, _MIN_SHARE))
    except AdaptationDiverged:
        runner.diverged = True
    runner.used_s += now() - began
    passed = len(MARKS) if runner.diverged else sum(runner.used_s >= mark * seconds for mark in MARKS)
    runner.saved += [(mark, runner.state) for mark in MARKS[len(runner.saved) : passed]]


def training_step(setting: Setting, tasks: TaskStream) -> Step:
    """The meta step of every entry; meta steps of the same number use the same tasks."""
    net = setting.net()

    def step(state: MetaTrainingState, entry: Entry, share: float) -> MetaTrainingState:
        return entry.step(setting, net, state, tasks(state.meta_step), share)

    return step


def score(entry: Entry, start: Weights, setting: Setting, data: Data, plan: EvaluationConfig) -> Score:
    """Adapt `start` to episodes of the test classes with the entry's inner loop."""
    source = EpisodeSampler(data.test, EpisodeShape(setting.n_way, N_SHOT, N_QUERY), setting.net_config.image)
    on_cpu = {name: tensor.cpu() for name, tensor in start.items()}
    return Score(tuple(evaluate(setting.net(), on_cpu, source, entry.recipe(setting), plan)))
