"""The comparison of Reptile, FOMAML and MAML: the same work, equal training time, tables, summary and plot."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import measuring
from benchmarks.measuring import MIB, MemoryUnknown
from benchmarks.meta_algorithms import (
    Cost,
    Result,
    cost_table,
    growth,
    learning_rates,
    outcomes,
    plot,
    result_table,
    saved,
    summary,
)
from benchmarks.meta_comparison import (
    ALGORITHMS,
    LEARNING_RATES,
    MARKS,
    Algorithm,
    Data,
    Entry,
    Memory,
    Runner,
    Setting,
    TaskStream,
    entries,
    memory_here,
    meta_step_seconds,
    open_data,
    score,
    train_for_equal_time,
    training_step,
)
from models import weights as weight_ops
from models.data.class_dataset import ArrayDataset
from models.errors import AdaptationDiverged
from models.meta.evaluation import EvaluationConfig
from models.meta.outer_loop import MetaTrainingState, inner_seeds
from models.meta.reptile import Reptile

CPU = torch.device("cpu")
TINY = Setting(width=4, n_way=2, shots=4, meta_batch=2, batch_size=4)


@pytest.fixture
def data() -> Data:
    """Four classes of noise, each brighter than the previous one."""
    generator = torch.Generator().manual_seed(0)
    arrays = [
        torch.randint(40 * i, 40 * i + 100, (16, 1, 28, 28), generator=generator, dtype=torch.uint8) for i in range(4)
    ]
    classes = ArrayDataset("noise", [str(i) for i in range(4)], arrays)
    return Data("noise", classes, classes)


def entry(algorithm: Algorithm, steps: int = 1) -> Entry:
    return Entry(algorithm, steps, LEARNING_RATES[algorithm])


def test_all_algorithms_have_the_same_start_and_the_same_tasks(data: Data) -> None:
    first, again = TaskStream(data, TINY, CPU), TaskStream(data, TINY, CPU)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first(3), again(3), strict=True))
    assert not torch.equal(first(3)[0].inputs, first(4)[0].inputs)
    assert weight_ops.digest(TINY.start(CPU).start) == weight_ops.digest(TINY.start(CPU).start)
    assert {one.recipe(TINY).batch_size for one in entries([1, 5], LEARNING_RATES)} == {TINY.batch_size}
    assert [(one.inner_steps, one.algorithm) for one in entries([1, 5], LEARNING_RATES)][3:] == [
        (5, one) for one in ALGORITHMS
    ]


def test_the_entry_of_reptile_runs_the_meta_step_of_reptile(data: Data) -> None:
    supports, start, one = TaskStream(data, TINY, CPU)(0), TINY.start(CPU), entry("reptile")
    moved = one.step(TINY, TINY.net(), start, supports, 0.5)
    size = 0.5 * one.rates.outer
    expected = Reptile().meta_step(
        TINY.net(), start, supports, one.recipe(TINY), size, inner_seeds(0, 0, len(supports))
    )
    assert weight_ops.digest(moved.start) == weight_ops.digest(expected.start)


@pytest.mark.parametrize("algorithm", ["fomaml", "maml"])
def test_the_outer_learning_rate_of_maml_is_that_of_adam(algorithm: Algorithm, data: Data) -> None:
    start, one = TINY.start(CPU), entry(algorithm)
    moved = one.step(TINY, TINY.net(), start, TaskStream(data, TINY, CPU)(0), 0.5)
    assert moved.outer_adam is not None
    difference = max(float((moved.start[name] - start.start[name]).abs().max()) for name in start.start)
    assert difference == pytest.approx(0.5 * one.rates.outer, rel=1e-3)  # Adam's first step has the size of its rate


def test_without_a_data_root_images_are_generated_and_the_name_shows_it() -> None:
    opened = open_data(None)
    assert "instead of Omniglot" in opened.name
    assert opened.train.images(0).shape[1:] == (1, 28, 28)
    assert not torch.equal(opened.train.images(0), opened.test.images(0))


def test_learning_rates_are_read_from_the_command_line() -> None:
    name, rates = learning_rates("maml=0.2,0.003")
    assert (name, rates.inner, rates.outer) == ("maml", 0.2, 0.003)
    with pytest.raises(ValueError, match="got algorithm 'mammal'"):
        learning_rates("mammal=1,1")


def test_every_entry_is_timed_in_every_round(data: Data) -> None:
    contest = entries([1], LEARNING_RATES)
    seconds = meta_step_seconds(contest, TINY, TaskStream(data, TINY, CPU), CPU, 3)
    assert list(seconds) == contest
    assert all(len(own) == 3 and min(own) > 0 for own in seconds.values())


def test_memory_is_the_peak_minus_the_memory_before(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter((200 * MIB, 260 * MIB))
    fields = []

    def status_bytes(field: str) -> int:
        fields.append(field)
        return next(held)

    monkeypatch.setattr(measuring, "status_bytes", status_bytes)
    measured = memory_here(entry("maml"), TINY, TaskStream(data, TINY, CPU)(0), CPU)
    assert measured == Memory(before_bytes=200 * MIB, added_bytes=60 * MIB)
    assert fields == ["VmRSS", "VmHWM"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_the_peak_includes_memory_that_was_freed() -> None:
    before = measuring.reset_peak(CPU)
    with mmap.mmap(-1, 64 * MIB) as fresh:  # memory that the process has freed before would not raise its peak
        for place in range(0, len(fresh), mmap.PAGESIZE):
            fresh[place] = 1
    assert measuring.peak_bytes(CPU) - before > 60 * MIB


def test_without_proc_the_error_names_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measuring, "STATUS", tmp_path / "status")
    with pytest.raises(MemoryUnknown, match="run this on Linux"):
        measuring.status_bytes("VmRSS")


class FakeClock:
    """Meta steps of given durations, and a clock that advances by them."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.time, self.shares = seconds, 0.0, list[float]()

    def now(self) -> float:
        return self.time

    def step(self, state: MetaTrainingState, entry: Entry, share: float) -> MetaTrainingState:
        self.time += self.seconds[entry.algorithm]
        self.shares.append(share)
        return MetaTrainingState(state.start, meta_step=state.meta_step + 1)


def runners(*algorithms: Algorithm) -> list[Runner]:
    return [Runner(entry(algorithm), MetaTrainingState({})) for algorithm in algorithms]


def test_in_equal_time_cheaper_steps_run_more_often() -> None:
    cheap, dear = both = runners("reptile", "maml")
    fake = FakeClock({"reptile": 1.0, "maml": 5.0})
    gaps = [abs(cheap.used_s - dear.used_s) for _ in train_for_equal_time(both, fake.step, 40.0, fake.now)]
    assert (cheap.used_s, dear.used_s) == (40.0, 40.0)
    assert [state.meta_step for _, state in cheap.saved] == [5, 10, 20, 40]
    assert [state.meta_step for _, state in dear.saved] == [1, 2, 4, 8]
    assert max(gaps) <= 5.0  # no runner is ahead by more than a step


def test_the_outer_learning_rate_decays_with_the_time_used() -> None:
    fake = FakeClock({"maml": 1.0})
    list(train_for_equal_time(runners("maml"), fake.step, 4.0, fake.now))
    assert fake.shares[1:] == [1.0, 0.75, 0.5, 0.25]  # the first is the one that warms up


def test_a_training_that_diverges_keeps_its_last_finite_start() -> None:
    (runner,) = alone = runners("maml")
    fake = FakeClock({"maml": 1.0})

    def step(state: MetaTrainingState, entry: Entry, share: float) -> MetaTrainingState:
        if state.meta_step == 3:
            raise AdaptationDiverged(1, (0,))
        return fake.step(state, entry, share)

    list(train_for_equal_time(alone, step, 16.0, fake.now))
    assert runner.diverged
    assert [(share, state.meta_step) for share, state in runner.saved] == [(0.125, 2), (0.25, 3), (0.5, 3), (1.0, 3)]


def test_real_trainings_end_in_scored_starts(data: Data) -> None:
    setting = Setting(width=4, n_way=2, shots=4, meta_batch=2, batch_size=10)
    contest = [Runner(entry(algorithm), setting.start(CPU)) for algorithm in ALGORITHMS]
    ticks: Iterator[int] = iter(range(10**6))
    list(
        train_for_equal_time(
            contest, training_step(setting, TaskStream(data, setting, CPU)), 8.0, lambda: float(next(ticks))
        )
    )
    plan = EvaluationConfig(2, 0, "transductive")
    for runner in contest:
        assert [share for share, _ in runner.saved] == list(MARKS)
        assert weight_ops.digest(runner.state.start) != weight_ops.digest(setting.start(CPU).start)
        reached = score(runner.entry, runner.state.start, setting, data, plan)
        assert len(reached.accuracies) == plan.episodes
        assert score(runner.entry, runner.state.start, setting, data, plan) == reached


def costs(maml_s: Callable[[int], float], maml_mib: Callable[[int], float], steps: Sequence[int]) -> list[Cost]:
    """Reptile and FOMAML take 0.1 s per inner step and 50 MiB."""

    def cost(algorithm: Algorithm, count: int) -> Cost:
        seconds = maml_s(count) if algorithm == "maml" else 0.1 * count
        added = maml_mib(count) if algorithm == "maml" else 50.0
        return Cost(algorithm, count, (seconds, seconds / 2, 2 * seconds), Memory(200 * MIB, int(added * MIB)))

    return [cost(algorithm, count) for count in steps for algorithm in ALGORITHMS]


USUAL = costs(lambda steps: 0.4 * steps, lambda steps: 60 + 40 * steps, (1, 5, 10))


def test_savings_and_growth_are_computed_from_medians() -> None:
    shares = saved(USUAL)
    assert list(shares) == [1, 5, 10]
    assert [memory for memory, _ in shares.values()] == pytest.approx([0.5, 1 - 50 / 260, 1 - 50 / 460])
    assert [time for _, time in shares.values()] == pytest.approx([0.75] * 3)
    grown = growth(USUAL, "maml")
    assert grown is not None
    assert list(grown) == pytest.approx([40, 0.4])
    assert growth(USUAL[:3], "maml") is None


def test_the_summary_names_the_inner_steps_at_which_the_claim_holds() -> None:
    text = summary(USUAL)
    assert "50, 81, 89 % (at 1, 5, 10 inner steps) less memory" in text
    assert "The 62 % of memory is reached at 5, 10 inner steps" in text
    assert "Of the memory of the whole process, Reptile saves 17, 46, 62 % (at 1, 5, 10 inner steps)" in text
    assert "The 97 % of time is not reached" in text
    assert "33 times as long as Reptile, and takes 4.0 times as long here" in text
    assert "adds 40.0 MiB to MAML, which keeps its graph, and 0.0 MiB to Reptile" in text


def test_there_is_a_sentence_on_equal_training_time_for_each_number_of_inner_steps() -> None:
    assert outcomes([]) == []
    (sentence,) = outcomes(RESULTS)
    assert "(60 s each, 5 inner steps): Reptile 90.00 ± 2.00 % after 100 meta steps, FOMAML" in sentence


def test_the_summary_depends_on_the_figures() -> None:
    text = summary(costs(lambda steps: 50.0 * steps, lambda steps: 60, (5,)))
    assert "The 62 % of memory is not reached" in text
    assert "The 97 % of time is reached at 5 inner steps" in text


def result(algorithm: Algorithm, share: float, *, diverged: bool = False) -> Result:
    frozen = (0.8, 0.01) if share == 1 else None
    return Result(algorithm, 5, share, 60 * share, int(100 * share), (0.9 * share**0.1, 0.02), frozen, diverged)


RESULTS = [result(algorithm, share) for algorithm in ALGORITHMS for share in MARKS]


def test_tables_have_a_row_for_each_number_of_steps_and_for_each_algorithm() -> None:
    table = cost_table(USUAL, "memory").splitlines()
    assert table[3] == "| 5 | 50 | 50 | 260 | 5.2 |"
    assert table[-1] == "| each further step | +0.0 | +0.0 | +40.0 |  |"
    assert cost_table(USUAL, "seconds").splitlines()[2] == "| 1 | 100 | 100 | 400 | 4.0 |"
    ends = result_table([*RESULTS, result("maml", 1.0, diverged=True)], LEARNING_RATES).splitlines()[2:]
    assert len(ends) == 4
    assert "90.00 ± 2.00 % | 80.00 ± 1.00 %" in ends[0]
    assert "100 (diverged)" in ends[3]


@pytest.mark.parametrize("results", [RESULTS, []], ids=["with training", "without"])
def test_the_plot_is_an_image_with_all_lines(results: list[Result]) -> None:
    pytest.importorskip("matplotlib")
    drawn = Image.open(io.BytesIO(plot(USUAL, results, "processor time", "made-up figures")))
    assert drawn.size == (1950, 750)
    colours = {colour for _, colour in drawn.convert("RGB").getcolors(2**21) or ()}
    assert {(0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)} <= colours
