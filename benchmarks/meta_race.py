"""Trains several algorithms for equal time, then scores them on the same episodes.

The algorithm that has used the least time runs next, so that other load affects all equally. Every outer learning rate
decays linearly to 0 with the time used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.meta_work import Data, Entry, TaskStream, Work
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import AdaptationDiverged
from models.meta.evaluation import EvaluationConfig, Score, evaluate
from models.meta.reptile import MetaTrainingState
from models.weights import Weights

MARKS = (0.125, 0.25, 0.5, 1.0)
"""Shares of the training time after which a start is kept, to be scored."""

N_SHOT, N_QUERY = 5, 10

_LEAST_SHARE = 1e-3
"""Of the outer rate, for a last step that begins just before the time is up; a rate has to be above 0."""


@dataclass
class Runner:
    """One algorithm during the race.

    Attributes:
        entry: the algorithm.
        state: state of its training.
        used_s: seconds used.
        kept: (share of the time, state) at each mark passed.
        diverged: whether it diverged, which ends its race at the last finite start.
    """

    entry: Entry
    state: MetaTrainingState
    used_s: float = 0.0
    kept: list[tuple[float, MetaTrainingState]] = field(default_factory=list)
    diverged: bool = False


Step = Callable[[MetaTrainingState, Entry, float], MetaTrainingState]
"""State, entry and share of the outer rate -> the state after one meta step."""


def race(runners: Sequence[Runner], step: Step, seconds: float, now: Callable[[], float]) -> Iterator[Runner]:
    """Train all runners for `seconds` of the clock `now` each, by turns; yields the runner of each
    meta step.

    Each algorithm runs an unmeasured warm-up step first.
    """
    for runner in runners:
        step(runner.state, runner.entry, 1.0)
    while unfinished := [runner for runner in runners if len(runner.kept) < len(MARKS)]:
        runner = min(unfinished, key=lambda one: one.used_s)
        advance(runner, step, seconds, now)
        yield runner


def advance(runner: Runner, step: Step, seconds: float, now: Callable[[], float]) -> None:
    """Run and time one meta step, and keep the state at every mark that it passes."""
    began = now()
    try:
        runner.state = step(runner.state, runner.entry, max(1 - runner.used_s / seconds, _LEAST_SHARE))
    except AdaptationDiverged:
        runner.diverged = True
    runner.used_s += now() - began
    passed = len(MARKS) if runner.diverged else sum(runner.used_s >= mark * seconds for mark in MARKS)
    runner.kept += [(mark, runner.state) for mark in MARKS[len(runner.kept) : passed]]


def step_of(work: Work, tasks: TaskStream) -> Step:
    """Run an entry's meta step on the tasks of its number, which are the same for all entries."""
    net = work.net()

    def step(state: MetaTrainingState, entry: Entry, share: float) -> MetaTrainingState:
        return entry.step(work, net, state, tasks(state.meta_step), share)

    return step


def score(entry: Entry, start: Weights, work: Work, data: Data, plan: EvaluationConfig) -> Score:
    """Evaluate `start` on test classes with the entry's inner loop."""
    source = EpisodeSampler(data.test, EpisodeShape(work.n_way, N_SHOT, N_QUERY), work.net_config.image)
    here = {name: tensor.cpu() for name, tensor in start.items()}
    return Score(tuple(evaluate(work.net(), here, source, entry.recipe(work), plan)))
