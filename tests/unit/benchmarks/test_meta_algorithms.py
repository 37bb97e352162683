"""What the comparison of Reptile, FOMAML and MAML rests on: the same work, a fair race, honest words about it."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import meta_costs
from benchmarks.meta_algorithms import rates_of
from benchmarks.meta_costs import Memory, MemoryUnknown, interleaved_seconds, memory_here
from benchmarks.meta_picture import Drawing, picture
from benchmarks.meta_race import MARKS, Runner, race, score, step_of
from benchmarks.meta_report import Cost, Result, cost_table, growth, outcomes, result_table, saved, verdict
from benchmarks.meta_work import ALGORITHMS, RATES, Algorithm, Data, Entry, TaskStream, Work, entries, open_data
from models import weights as algebra
from models.data.class_dataset import ArrayDataset
from models.errors import AdaptationDiverged
from models.meta.evaluation import EvaluationConfig
from models.meta.reptile import MetaTrainingState, Reptile, inner_seeds

CPU = torch.device("cpu")
TINY = Work(width=4, n_way=2, shots=4, meta_batch=2, batch_size=4)
MIB = 2**20


@pytest.fixture
def data() -> Data:
    """Four classes of noise, each brighter than the one before."""
    generator = torch.Generator().manual_seed(0)
    arrays = [
        torch.randint(40 * i, 40 * i + 100, (16, 1, 28, 28), generator=generator, dtype=torch.uint8) for i in range(4)
    ]
    classes = ArrayDataset("noise", [str(i) for i in range(4)], arrays)
    return Data("noise", classes, classes)


def entry(algorithm: Algorithm, steps: int = 1) -> Entry:
    return Entry(algorithm, steps, RATES[algorithm])


def test_all_algorithms_have_the_same_start_and_tasks(data: Data) -> None:
    first, again = TaskStream(data, TINY, CPU), TaskStream(data, TINY, CPU)
    assert all(torch.equal(a.images, b.images) for a, b in zip(first(3), again(3), strict=True))
    assert not torch.equal(first(3)[0].images, first(4)[0].images)
    assert algebra.digest(TINY.start(CPU).start) == algebra.digest(TINY.start(CPU).start)
    assert {one.recipe(TINY).batch_size for one in entries([1, 5], RATES)} == {TINY.batch_size}
    assert [(one.inner_steps, one.algorithm) for one in entries([1, 5], RATES)][3:] == [(5, one) for one in ALGORITHMS]


def test_the_entry_of_reptile_runs_its_meta_step(data: Data) -> None:
    supports, start, one = TaskStream(data, TINY, CPU)(0), TINY.start(CPU), entry("reptile")
    moved = one.step(TINY, TINY.net(), start, supports, 0.5)
    size = 0.5 * one.rates.outer
    expected = Reptile().meta_step(
        TINY.net(), start, supports, one.recipe(TINY), size, inner_seeds(0, 0, len(supports))
    )
    assert algebra.digest(moved.start) == algebra.digest(expected.start)


@pytest.mark.parametrize("algorithm", ["fomaml", "maml"])
def test_the_outer_rate_of_maml_is_the_learning_rate_of_adam(algorithm: Algorithm, data: Data) -> None:
    start, one = TINY.start(CPU), entry(algorithm)
    moved = one.step(TINY, TINY.net(), start, TaskStream(data, TINY, CPU)(0), 0.5)
    assert moved.outer_adam is not None
    difference = max(float((moved.start[name] - start.start[name]).abs().max()) for name in start.start)
    assert difference == pytest.approx(0.5 * one.rates.outer, rel=1e-3)  # Adam's first step has the size of its rate


def test_without_a_data_root_generated_images_are_used_and_reported() -> None:
    opened = open_data(None)
    assert "stand in for Omniglot" in opened.name
    assert opened.train.images(0).shape[1:] == (1, 28, 28)
    assert not torch.equal(opened.train.images(0), opened.test.images(0))


def test_rates_come_from_the_command_line() -> None:
    name, rates = rates_of("maml=0.2,0.003")
    assert (name, rates.inner, rates.outer) == ("maml", 0.2, 0.003)
    with pytest.raises(ValueError, match="no algorithm 'mammal'"):
        rates_of("mammal=1,1")


def test_every_entry_is_timed_in_every_round(data: Data) -> None:
    contest = entries([1], RATES)
    seconds = interleaved_seconds(contest, TINY, TaskStream(data, TINY, CPU), CPU, 3)
    assert list(seconds) == contest
    assert all(len(own) == 3 and min(own) > 0 for own in seconds.values())


def test_memory_excludes_what_was_in_use_before(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter((200 * MIB, 260 * MIB))
    asked = []

    def status_bytes(field: str) -> int:
        asked.append(field)
        return next(held)

    monkeypatch.setattr(meta_costs, "_status_bytes", status_bytes)
    measured = memory_here(entry("maml"), TINY, TaskStream(data, TINY, CPU)(0), CPU)
    assert measured == Memory(before_bytes=200 * MIB, added_bytes=60 * MIB)
    assert asked == ["VmRSS", "VmHWM"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_the_peak_includes_freed_memory() -> None:
    before = meta_costs.reset_peak(CPU)
    with mmap.mmap(-1, 64 * MIB) as fresh:  # memory that the process has freed before would not raise its peak
        for place in range(0, len(fresh), mmap.PAGESIZE):
            fresh[place] = 1
    assert meta_costs.peak_bytes(CPU) - before > 60 * MIB


def test_a_system_without_proc_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meta_costs, "_STATUS", tmp_path / "status")
    with pytest.raises(MemoryUnknown, match="run this on Linux"):
        meta_costs._status_bytes("VmRSS")


class FakeWork:
    """Meta steps that take as long as they are said to, and the clock that shows it."""

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


def test_cheap_steps_run_more_often_in_equal_time() -> None:
    cheap, dear = both = runners("reptile", "maml")
    fake = FakeWork({"reptile": 1.0, "maml": 5.0})
    gaps = [abs(cheap.used_s - dear.used_s) for _ in race(both, fake.step, 40.0, fake.now)]
    assert (cheap.used_s, dear.used_s) == (40.0, 40.0)
    assert [state.meta_step for _, state in cheap.kept] == [5, 10, 20, 40]
    assert [state.meta_step for _, state in dear.kept] == [1, 2, 4, 8]
    assert max(gaps) <= 5.0  # no algorithm is ahead by more than a step


def test_the_outer_rate_decays_with_the_time_used() -> None:
    fake = FakeWork({"maml": 1.0})
    list(race(runners("maml"), fake.step, 4.0, fake.now))
    assert fake.shares[1:] == [1.0, 0.75, 0.5, 0.25]  # the first is the one that warms up


def test_a_training_that_diverges_keeps_its_last_finite_start() -> None:
    (runner,) = alone = runners("maml")
    fake = FakeWork({"maml": 1.0})

    def step(state: MetaTrainingState, entry: Entry, share: float) -> MetaTrainingState:
        if state.meta_step == 3:
            raise AdaptationDiverged(1, (0,))
        return fake.step(state, entry, share)

    list(race(alone, step, 16.0, fake.now))
    assert runner.diverged
    assert [(share, state.meta_step) for share, state in runner.kept] == [(0.125, 2), (0.25, 3), (0.5, 3), (1.0, 3)]


def test_a_race_gives_starts_that_can_be_scored(data: Data) -> None:
    work = Work(width=4, n_way=2, shots=4, meta_batch=2, batch_size=10)
    contest = [Runner(entry(algorithm), work.start(CPU)) for algorithm in ALGORITHMS]
    ticks: Iterator[int] = iter(range(10**6))
    list(race(contest, step_of(work, TaskStream(data, work, CPU)), 8.0, lambda: float(next(ticks))))
    plan = EvaluationConfig(2, 0, "transductive")
    for runner in contest:
        assert [share for share, _ in runner.kept] == list(MARKS)
        assert algebra.digest(runner.state.start) != algebra.digest(work.start(CPU).start)
        reached = score(runner.entry, runner.state.start, work, data, plan)
        assert len(reached.accuracies) == plan.episodes
        assert score(runner.entry, runner.state.start, work, data, plan) == reached


def costs(maml_s: Callable[[int], float], maml_mib: Callable[[int], float], steps: Sequence[int]) -> list[Cost]:
    """Reptile and FOMAML take 0.1 s an inner step and 50 MiB."""

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


def test_the_verdict_states_where_the_claim_holds() -> None:
    said = verdict(USUAL)
    assert "50, 81, 89 % (at 1, 5, 10 inner steps) less memory" in said
    assert "The 62 % of memory is reached or passed at 5, 10 inner steps" in said
    assert "Of all that the process holds, 17, 46, 62 % (at 1, 5, 10 inner steps) are saved" in said
    assert "The 97 % of time is reached nowhere" in said
    assert "33 times as slow, which is 4.0 times as slow here" in said
    assert "adds 40.0 MiB to MAML, which keeps its graph, and 0.0 MiB to Reptile" in said


def test_the_result_of_equal_time_is_stated_for_each_number_of_inner_steps() -> None:
    assert outcomes([]) == []
    (sentence,) = outcomes(RESULTS)
    assert "(60 s each, 5 inner steps): Reptile 90.00 ± 2.00 % after 100 meta steps, FOMAML" in sentence


def test_the_verdict_depends_on_the_results() -> None:
    said = verdict(costs(lambda steps: 50.0 * steps, lambda steps: 60, (5,)))
    assert "The 62 % of memory is reached nowhere" in said
    assert "The 97 % of time is reached or passed at 5 inner steps" in said


def result(algorithm: Algorithm, share: float, *, diverged: bool = False) -> Result:
    frozen = (0.8, 0.01) if share == 1 else None
    return Result(algorithm, 5, share, 60 * share, int(100 * share), (0.9 * share**0.1, 0.02), frozen, diverged)


RESULTS = [result(algorithm, share) for algorithm in ALGORITHMS for share in MARKS]


def test_tables_have_a_row_per_number_of_steps_or_algorithm() -> None:
    table = cost_table(USUAL, "memory").splitlines()
    assert table[3] == "| 5 | 50 | 50 | 260 | 5.2 |"
    assert table[-1] == "| each further one | +0.0 | +0.0 | +40.0 |  |"
    assert cost_table(USUAL, "seconds").splitlines()[2] == "| 1 | 100 | 100 | 400 | 4.0 |"
    ends = result_table([*RESULTS, result("maml", 1.0, diverged=True)], RATES).splitlines()[2:]
    assert len(ends) == 4
    assert "90.00 ± 2.00 % | 80.00 ± 1.00 %" in ends[0]
    assert "100 (diverged)" in ends[3]


@pytest.mark.parametrize("results", [RESULTS, []], ids=["with training", "without"])
def test_the_plot_is_a_png(results: list[Result]) -> None:
    pytest.importorskip("matplotlib")
    drawn = Image.open(io.BytesIO(picture(Drawing(USUAL, results, "processor time", "made-up figures"))))
    assert drawn.size == (1950, 750)
    colours = {colour for _, colour in drawn.convert("RGB").getcolors(2**21) or ()}
    assert {(0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)} <= colours
