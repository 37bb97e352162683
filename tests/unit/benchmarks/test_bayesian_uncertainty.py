"""The benchmark of averaged probabilities: its rivals, and how it compares episodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.bayesian_uncertainty import (
    METHODS,
    Scores,
    Start,
    Trial,
    calibration_error,
    resampled,
    run,
    summarised,
    usable,
)
from models.checkpoint import load_checkpoint
from models.meta.bayesian_reptile import bayesian_start
from models.task import Support


def trial(seed: int, n_shot: int) -> Trial:
    """Noisy images whose classes differ in brightness; two classes are unknown."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(5).repeat_interleave(n_shot + 3)
    images = torch.rand(len(labels), 1, 28, 28, generator=generator) + 0.3 * labels[:, None, None, None]
    known, taught = labels < 3, (torch.arange(len(labels)) % (n_shot + 3)) < n_shot
    support = Support(images[known & taught], labels[known & taught], 3)
    return Trial(support, images[known & ~taught], labels[known & ~taught], images[~known], None)


def test_every_method_gives_figures_for_the_same_episodes() -> None:
    checkpoint = load_checkpoint("omniglot")
    start = Start(checkpoint.build_net(), checkpoint)
    names = ["point", "posterior", "laplace", "ensemble"]
    rows = run(start, ((seed, trial(seed, 2)) for seed in range(2)), names)
    assert [len(rows[name]) for name in names] == [2] * 4
    result = summarised("test", rows)["methods"]
    assert result["point"]["accuracy"][2:] == [0.0, 0.0]
    for name in names:
        assert 0 <= result[name]["ece"] <= 1
        assert all(0 <= row["auroc_epistemic"] <= 1 for row in rows[name])
    assert {len(row["confidence"]) for row in rows["point"]} == {9}


def test_a_resampled_support_has_as_many_samples_of_each_class_in_all_their_views() -> None:
    given = trial(0, 4).support.with_flips()
    drawn = resampled(given, 1)
    assert torch.equal(torch.bincount(drawn.labels), torch.bincount(given.labels))
    first = (given.samples == drawn.samples[0]).flatten(1).all(1).nonzero()[0]
    assert torch.equal(drawn.by_view[:, 0], given.by_view[:, int(first)])
    assert not torch.equal(drawn.inputs, given.inputs)


def test_a_temperature_divides_scores_and_the_variance_of_a_posterior() -> None:
    logits, noise = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 0.0]]])
    found = Scores(logits, noise, power=0.5).sampled(4.0)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0]]]).softmax(-1))


def test_the_calibration_error_is_of_all_episodes_together() -> None:
    rows = [
        {"confidence": torch.tensor([0.9, 0.9]), "hits": torch.tensor([True, True])},
        {"confidence": torch.tensor([0.9, 0.9]), "hits": torch.tensor([True, False])},
    ]
    assert calibration_error(rows) == pytest.approx(0.15)


def test_weights_are_drawn_of_checkpoints_with_gaussian_weights_only() -> None:
    point = load_checkpoint("omniglot")
    spread = replace(point, weights=bayesian_start(point.weights))
    names = [usable(list(METHODS), Start(one.build_net(), one)) for one in (point, spread)]
    assert ["sampled weights" in own for own in names] == [False, True]
    rows = run(Start(spread.build_net(), spread), iter([(0, trial(0, 1))]), ["sampled weights"])
    assert rows["sampled weights"][0]["temperature"] == 1.0
