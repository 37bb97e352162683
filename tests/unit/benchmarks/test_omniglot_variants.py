"""The tables of Omniglot variants: one change each, the same episodes, saved results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import omniglot_variants
from benchmarks.omniglot_variants import BASE, table, uses, variants
from models.data.class_dataset import ArrayDataset, QuarterTurnDataset
from models.data.registry import DatasetSplits
from tests.generated import tiny_checkpoint_in


def characters(count: int, seed: int) -> ArrayDataset:
    """Classes of noisy copies of one random pattern each."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randint(200, (count, 1, 1, 28, 28), generator=generator)
    noise = torch.randint(56, (count, 16, 1, 28, 28), generator=generator)
    arrays = list((patterns + noise).to(torch.uint8))
    return ArrayDataset("characters", [str(index) for index in range(count)], arrays)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> DatasetSplits:
    small = DatasetSplits(QuarterTurnDataset(characters(20, 0)), characters(6, 1), {"name": "characters"})
    monkeypatch.setattr(omniglot_variants, "open_dataset", lambda *_: small)
    return small


def test_every_variant_differs_from_the_preset_and_has_a_name() -> None:
    tried = variants()
    assert (tried[0].preset, tried[0].rotated) == (BASE, True)
    assert len({variant.name for variant in tried}) == len({variant.change for variant in tried}) == len(tried)
    assert all(variant.preset != BASE or not variant.rotated for variant in tried[1:])
    assert len({(use.serve, use.normalisation) for use in uses(BASE.serve)}) == len(uses(BASE.serve))


def test_upright_classes_are_selected(data: DatasetSplits) -> None:
    upright = omniglot_variants.upright(data.train)
    assert len(upright) == 20
    assert all(name.endswith("/turn0") for name in upright.class_names)


def test_a_second_run_uses_saved_trainings_and_scores(
    data: DatasetSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "variants"
    line = f"--meta-steps 1 --episodes 2 --folder {folder} --checkpoint {tiny_checkpoint_in(tmp_path)}"
    monkeypatch.setattr(sys, "argv", ["omniglot_variants.py", *line.split(), "--only", "base", "upright", "uses"])
    omniglot_variants.main()
    first = capsys.readouterr().out
    assert "| the preset |" in first
    assert "| characters upright only: 1200 classes, not 4800 |" in first
    assert "| queries share statistics |" in first
    scored = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert len(scored) == 2 + len(uses(BASE.serve))
    omniglot_variants.main()
    assert capsys.readouterr().out == first
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")} == scored


def test_rows_are_compared_with_the_first_and_a_divergence_is_shown() -> None:
    rows: dict[str, omniglot_variants.Scores | str] = {
        "first": {1: [0.5, 0.7], 5: [0.9, 0.9]},
        "second": {1: [0.6, 0.8], 5: [0.8, 1.0]},
        "third": "diverged at meta step 9",
    }
    printed = table("training", rows).splitlines()
    assert "| +10.00 ± 0.00 |" in printed[3]
    assert "| +0.00 ± 19.60 |" in printed[3]
    assert "| diverged at meta step 9 |" in printed[4]
    assert {line.count("|") for line in printed} == {6}
