"""Architecture search: limits, resuming, the winner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from models.adaptation.adapt import adapt_one
from models.checkpoint import load_checkpoint
from models.config import PRESETS, InnerLoopConfig, MetaTrainingConfig, NetConfig, Preset
from models.data.class_dataset import ArrayDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import DatasetSplits
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.meta import curve, search
from models.meta.evaluation import EvaluationConfig, evaluate
from models.meta.pareto import pareto_front, plot_pareto
from models.meta.search import (
    SPACE,
    Search,
    SearchConfig,
    TrialResult,
    best_result,
    make_candidate,
    prediction_milliseconds,
    preset_choices,
    weight_megabytes,
)
from models.meta.training import WeightedDataset
from models.nets import build

TINY = Preset(
    net_config=NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=16),
    recipe=InnerLoopConfig(steps=1, learning_rate=0.1, batch_size=4),
    meta=MetaTrainingConfig(meta_steps=9, meta_batch=1, n_way=2, train_shots=2),
    serve=InnerLoopConfig(steps=1, learning_rate=0.1, batch_size=4),
)
CONFIG = SearchConfig(TINY, max_mb=0.3, max_ms=math.inf, meta_steps=9, n_way=2, n_query=2, episodes=3)
LONG_S = 1e6


def classes(name: str, count: int) -> ArrayDataset:
    generator = torch.Generator().manual_seed(count)
    arrays = [torch.randint(0, 256, (4, 1, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(count)]
    return ArrayDataset(name, [f"{name}{index}" for index in range(count)], arrays)


DATA = DatasetSplits(classes("train", 5), classes("validation", 4), {"name": "tiny"})


def measured(nets: Sequence[NetConfig], busy: float = 1.0) -> list[float]:
    """Made-up times that depend on the net alone, on a machine that takes longer while it is busy."""
    return [busy * build(net).feature_count / 1000 for net in nets]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "can_plot", lambda: False)


def open_search(folder: Path, config: SearchConfig = CONFIG, data: DatasetSplits = DATA) -> Search:
    return Search(config, data, folder, measure=measured)


def searched(folder: Path, trials: int, config: SearchConfig = CONFIG) -> list[TrialResult]:
    opened = open_search(folder, config)
    list(opened.run(LONG_S, trials))
    return without_times(opened.results())


def without_times(results: list[TrialResult]) -> list[TrialResult]:
    return [replace(result, seconds=0.0) for result in results]


def test_the_first_trial_is_the_presets_own_net_and_reaches_the_last_rung(tmp_path: Path) -> None:
    first, *others = searched(tmp_path, 6)
    assert make_candidate(TINY, first.choices).net_config == TINY.net_config
    assert (first.outcome, first.meta_step) == ("complete", 9)
    assert first.mb == pytest.approx(0.028736)
    assert len(others) == 5


def test_only_the_best_third_goes_on_to_the_next_rung(tmp_path: Path) -> None:
    results = searched(tmp_path, 12)
    stopped = [result for result in results if result.outcome == "stopped early"]
    assert stopped
    assert {result.meta_step for result in stopped} <= {1, 3}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_candidate_beyond_the_limits_is_trained(tmp_path: Path, sampler: Literal["tpe", "random"]) -> None:
    config = replace(CONFIG, max_mb=0.05, max_ms=0.05, sampler=sampler)
    results = searched(tmp_path, 25, config)
    trained = [result for result in results[1:] if result.accuracy is not None]
    assert all(result.mb <= 0.05 and result.ms is not None and result.ms <= 0.05 for result in trained)
    rejected = {result.outcome for result in results if result.accuracy is None}
    assert {"too large", "too slow"} <= rejected


def test_no_candidate_is_trained_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: (value,) for name, value in preset_choices(TINY).items()} | {"depth": (3, 4), "kernel": (3, 5)}
    monkeypatch.setattr(search, "SPACE", few)
    results = searched(tmp_path, 4)
    assert len({str(result.choices) for result in results}) == 4


class Killed(Exception):
    """Stands for the end of the process."""


def clock_until_killed(calls: int) -> Callable[[], float]:
    """Return a clock that is read once per meta step and ends the process at some reading."""
    left = iter(range(calls))

    def clock() -> float:
        if next(left, None) is None:
            raise Killed
        return 0.0

    return clock


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_killed_search_goes_on_to_the_same_trials(tmp_path: Path, sampler: Literal["tpe", "random"]) -> None:
    config = replace(CONFIG, sampler=sampler)
    expected = searched(tmp_path / "whole", 8, config)
    for calls in (1, 4, 9, 13, 16):
        with pytest.raises(Killed):
            list(open_search(tmp_path / "parts", config).run(LONG_S, 8, clock_until_killed(calls)))
    assert searched(tmp_path / "parts", 8, config) == expected


def test_a_search_out_of_time_goes_on_in_the_middle_of_a_trial(tmp_path: Path) -> None:
    expected = searched(tmp_path / "whole", 3)
    opened, now_s = open_search(tmp_path / "parts"), 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += 1
        return now_s

    list(opened.run(8, clock=clock))
    (unfinished,) = opened.results()
    assert unfinished.outcome == "unfinished"
    assert 0 < unfinished.seconds <= 9
    assert searched(tmp_path / "parts", 3) == expected


def test_a_search_whose_time_is_spent_starts_no_trial(tmp_path: Path) -> None:
    searched(tmp_path, 1)
    opened = open_search(tmp_path)
    assert list(opened.run(opened.spent_s, 2)) == []
    assert len(opened.results()) == 1


def test_a_search_with_other_settings_is_rejected(tmp_path: Path) -> None:
    searched(tmp_path, 1)
    with pytest.raises(InvalidConfig, match=rf"other settings: episodes was {CONFIG.episodes} and is 4; pass"):
        open_search(tmp_path, replace(CONFIG, episodes=4))


def test_a_search_whose_last_line_was_not_written_to_its_end_goes_on(tmp_path: Path) -> None:
    before = searched(tmp_path, 2)
    with (tmp_path / "trials.log").open("ab") as log:
        log.write(b'{"op_code":5,"worker_id":"')
    assert searched(tmp_path, 3)[:2] == before
    assert len(searched(tmp_path, 3)) == 3


@pytest.mark.parametrize("line", [b"\0\0\0\n", b"{}\n", b"[]\n"])
def test_a_damaged_log_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    searched(tmp_path, 1)
    log = tmp_path / "trials.log"
    log.write_bytes(line + log.read_bytes())
    with pytest.raises(InvalidConfig, match=r"trials\.log is damaged"):
        open_search(tmp_path)


def test_the_winner_is_trained_in_full_and_evaluates(tmp_path: Path) -> None:
    winner = best_result(searched(tmp_path, 4))
    assert winner is not None
    run = open_search(tmp_path).final_training(winner, DATA, 3)
    list(run.run([WeightedDataset(DATA.train)]))
    checkpoint = load_checkpoint(tmp_path / f"winner-{winner.number}.safetensors")
    candidate = make_candidate(TINY, winner.choices)
    assert (checkpoint.net_config, checkpoint.recipe) == (candidate.net_config, candidate.serve)
    source = EpisodeSampler(DATA.test, EpisodeShape(2, 1, 2), checkpoint.net_config.image)
    scores = evaluate(checkpoint.build_net(), checkpoint.weights, source, checkpoint.recipe, EvaluationConfig(2))
    assert len(list(scores)) == 2


@pytest.mark.parametrize(
    ("adapted", "frozen"),
    [("all", set()), ("late", {"block1", "block2"}), ("head", {"block1", "block2", "block3", "block4", "block5"})],
)
def test_layers_that_a_candidate_does_not_adapt_stay_as_they_are(adapted: str, frozen: set[str]) -> None:
    candidate = make_candidate(TINY, {**preset_choices(TINY), "depth": 5, "adapted": adapted})
    net = build(candidate.net_config)
    support = EpisodeSampler(DATA.train, EpisodeShape(2, 2), candidate.net_config.image).support(0)
    weights = adapt_one(net, net.start(), support, candidate.serve, 0).weights
    same = {name for name, tensor in net.start().items() if torch.equal(tensor, weights[name])}
    blocks = {name.partition(".")[0] for name in net.start()}
    assert {block for block in blocks if {f"{block}.weight", f"{block}.scale"} <= same} == frozen


def test_megabytes_are_those_of_the_weights() -> None:
    for choices in ({"stem": 4, "growth": 1.5, "kernel": 5}, {"depth": 6}, {}):
        net_config = make_candidate(TINY, {**preset_choices(TINY), **choices}).net_config
        built = sum(tensor.nbytes for tensor in build(net_config).start().values())
        assert weight_megabytes(net_config) == pytest.approx(built / 1e6)


def test_a_net_is_timed_as_it_is_served() -> None:
    (ms,) = prediction_milliseconds([TINY.net_config])
    assert 0 < ms < 1000


def test_times_are_corrected_by_the_presets_net_while_the_machine_is_busy(tmp_path: Path) -> None:
    loads = iter([1.0, *[3.0] * 100])
    opened = Search(replace(CONFIG, max_mb=2.0), DATA, tmp_path, measure=lambda nets: measured(nets, next(loads)))
    list(opened.run(LONG_S, 8))
    timed = [result for result in opened.results() if result.ms is not None]
    assert len(timed) > 2
    for result in timed:
        net = build(make_candidate(TINY, result.choices).net_config)
        assert result.ms == pytest.approx(net.feature_count / 1000)


def test_without_a_limit_no_candidate_is_slower_than_the_presets_net(tmp_path: Path) -> None:
    first, *others = searched(tmp_path, 25, replace(CONFIG, max_ms=None))
    assert first.ms is not None
    assert all(each.ms is not None and each.ms <= first.ms for each in others if each.accuracy is not None)
    assert "too slow" in {each.outcome for each in others}
    free = searched(tmp_path / "free", 25)
    assert "too slow" not in {each.outcome for each in free}


def test_the_presets_own_net_is_trained_even_beyond_the_limits(tmp_path: Path) -> None:
    (first,) = searched(tmp_path, 1, replace(CONFIG, max_mb=0.001, max_ms=0.0))
    assert first.outcome == "complete"


@pytest.mark.parametrize("name", ["omniglot", "mini-imagenet"])
def test_presets_are_in_the_space(name: str) -> None:
    choices = preset_choices(PRESETS[name])
    assert all(choices[each] in values for each, values in SPACE.items())


def test_presets_of_other_nets_are_rejected() -> None:
    with pytest.raises(InvalidConfig, match="choose the preset omniglot or mini-imagenet"):
        SearchConfig(PRESETS["surfaces"])


def test_meta_steps_that_three_rungs_do_not_divide_are_rejected() -> None:
    with pytest.raises(InvalidConfig, match="multiples of 9"):
        SearchConfig(TINY, meta_steps=10)


def result(number: int, accuracy: float, ms: float, **changes: object) -> TrialResult:
    made = TrialResult(number, "complete", {}, accuracy, 9, ms, 0.1, 1.0)
    return replace(made, **changes)  # type: ignore[arg-type]


RESULTS = [
    result(0, 0.6, 2.0),
    result(1, 0.5, 1.0),
    result(2, 0.4, 1.5),
    result(3, 0.7, 3.0),
    result(4, 0.7, 2.5),
    result(5, 0.9, 0.5, outcome="stopped early"),
]


def test_the_pareto_front_has_the_complete_trials_that_none_beats() -> None:
    assert [each.number for each in pareto_front(RESULTS)] == [1, 0, 4]


def test_the_best_of_equal_trials_is_the_faster_one() -> None:
    best = best_result(RESULTS)
    assert best is not None
    assert best.number == 4
    assert best_result([]) is None


def test_the_picture_is_a_png() -> None:
    pytest.importorskip("matplotlib")
    assert plot_pareto(RESULTS).startswith(b"\x89PNG")
