"""Methods on the features of a frozen backbone, all on the same episodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import start_accuracy
from benchmarks.start_accuracy import STAGE_CHANNELS, lda, prototypes, regression_of_last_layer, regression_of_stages
from models.checkpoint import SHIPPED, load_checkpoint
from tests.generated import striped, tiny_checkpoint_in

FEATURES = 4 * sum(STAGE_CHANNELS)


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    for period in (3, 5, 9):
        folder = tmp_path / "stripes.zip" / f"period-{period}"  # a folder works like a .zip
        folder.mkdir(parents=True)
        for number, content in enumerate(striped(5, period)):
            (folder / f"{number}.png").write_bytes(content)
    return tmp_path


def clusters(features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Support (3, 4, 2, features) and queries (3, features) of three separate classes, in order."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, features, generator=generator)
    support = centres[:, None, None] + 0.3 * torch.randn(3, 4, 2, features, generator=generator)
    return support, centres


@pytest.mark.parametrize("classify", [lda, prototypes, regression_of_stages, regression_of_last_layer])
def test_every_classifier_separates_clusters(classify: start_accuracy.Classify) -> None:
    if classify in (regression_of_stages, regression_of_last_layer):
        pytest.importorskip("sklearn")
    assert classify(*clusters(FEATURES)).tolist() == [0, 1, 2]


def test_lda_ignores_directions_in_which_a_class_varies_and_prototypes_do_not() -> None:
    generator = torch.Generator().manual_seed(1)
    means = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    spread = torch.tensor([0.1, 4.0, 0.1])
    support = means[:, None, None] + spread * torch.randn(2, 40, 1, 3, generator=generator)
    queries = torch.tensor([[0.5, 3.0, 0.0], [-0.5, 3.0, 0.0], [0.5, -3.0, 0.0], [-0.5, -3.0, 0.0]])
    assert lda(support, queries).tolist() == [0, 1, 0, 1]


def test_the_regression_on_stages_sees_means_and_deviations_of_all_stages_but_the_first() -> None:
    pytest.importorskip("sklearn")
    support, queries = clusters(FEATURES)
    unseen = torch.ones(FEATURES, dtype=torch.bool)
    begin = 0
    for stage, channels in enumerate(STAGE_CHANNELS):
        if stage:
            unseen[begin : begin + 2 * channels] = False
        begin += 4 * channels
    queries[:, unseen] = queries[[1, 2, 0]][:, unseen]
    assert regression_of_stages(support, queries).tolist() == [0, 1, 2]


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(sys, "argv", ["start_accuracy.py", *line.split()])
    start_accuracy.main()


def test_all_rows_are_scored_on_the_same_episodes(
    stripes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start_accuracy, "published_weights", lambda: None)
    small = tiny_checkpoint_in(stripes)
    line = f"--data-root {stripes} --sets stripes --small {small} --shots 1 2 --queries 2 --episodes 2"
    run(monkeypatch, f"{line} --cache {stripes / 'cache'} --json")
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert "rows with regression are left out" in printed.err
    first, second = record["tables"]
    assert (first["set"], first["images"], first["shots"], second["shots"]) == ("stripes", 15, 1, 2)
    assert list(first["accuracies"]) == ["as shipped", "frozen, LDA", "frozen, prototypes", "tiny"]
    assert all(len(values) == 2 for values in first["accuracies"].values())
    assert record["digest"] == load_checkpoint("efficientnet-lite0").digest
    assert len(list((stripes / "cache").iterdir())) == 1


def test_the_table_shows_by_how_much_the_start_is_ahead() -> None:
    table = {
        "set": "steel", "images": 9, "dropped": 1, "shots": 5, "queries": [10, 10],
        "accuracies": {"as shipped": [0.9, 0.8], "frozen, LDA": [0.8, 0.7]},
    }  # fmt: skip
    lines = start_accuracy.table_of(table).splitlines()
    assert lines[0].startswith("steel, 5-shot: 9 images, 1 duplicates dropped")
    assert "| frozen, LDA | 75.0 ± 9.8 % | +10.0 ± 0.0 |" in lines


def test_the_published_weights_are_found_only_if_their_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_accuracy, "PUBLISHED", "no_such_package")
    assert start_accuracy.published_weights() is None
    assert (SHIPPED / "efficientnet-lite0.safetensors").is_file()
