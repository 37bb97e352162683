"""Episodes of the cross-validation benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cross_validation import FLIPPED, Source, draw, episode_results, flip_row, honesty_row, verdict_row
from benchmarks.embedded_sets import EmbeddedSet, Shape, embed_dataset
from models.adaptation.adapt import BatchingOptions
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.class_dataset import ArrayDataset
from tests.generated import tiny_checkpoint_in

SHAPE = Shape(n_way=3, n_shot=4, n_query=6)


def blobs(checkpoint: Checkpoint) -> EmbeddedSet:
    """Classes of noise around different grey levels."""
    generator = torch.Generator().manual_seed(0)
    arrays = [
        (24 * level + 10 + 40 * torch.rand(12, 1, 28, 28, generator=generator)).to(torch.uint8) for level in range(8)
    ]
    return embed_dataset(ArrayDataset("blobs", [f"level {level}" for level in range(8)], arrays), checkpoint, 8)


def tiny(folder: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint_in(folder)))


def test_the_seed_determines_the_episode(tmp_path: Path) -> None:
    data = blobs(tiny(tmp_path))
    first, again, other = (draw(data, SHAPE, seed, FLIPPED) for seed in (1, 1, 2))
    assert torch.equal(first.support.inputs, again.support.inputs)
    assert torch.equal(first.support.labels, again.support.labels)
    assert not torch.equal(first.support.inputs, other.support.inputs)


def test_the_requested_share_of_labels_is_flipped(tmp_path: Path) -> None:
    drawn = draw(blobs(tiny(tmp_path)), SHAPE, 3, flipped=0.25)
    assert int((drawn.support.labels != drawn.episode.labels).sum()) == 3
    assert (len(drawn.episode.queries), len(drawn.episode.others)) == (18, 18)


def test_folds_get_the_objects_that_the_samples_show(tmp_path: Path) -> None:
    data = blobs(tiny(tmp_path))
    drawn = draw(replace(data, groups=data.groups // 2), SHAPE, 0)
    assert torch.equal(drawn.groups, drawn.episode.support.flatten() // 2)


def test_rows_are_computed_from_episodes(tmp_path: Path) -> None:
    checkpoint = tiny(tmp_path)
    source = Source(blobs(checkpoint), checkpoint)
    results = list(episode_results(source, SHAPE, range(3), BatchingOptions(), FLIPPED))
    assert len(honesty_row(results)) == 6
    assert len(verdict_row(results)) == 5
    found, false = (float(cell.removesuffix(" %")) for cell in flip_row(results))
    assert 0 <= false <= 100
    assert 0 <= found <= 100
    assert 0 < FLIPPED < 1


def test_without_other_classes_there_are_no_figures_about_them(tmp_path: Path) -> None:
    checkpoint = tiny(tmp_path)
    source = Source(blobs(checkpoint), checkpoint)
    results = list(episode_results(source, replace(SHAPE, n_way=8), range(1), BatchingOptions()))
    assert [bool(cell) for cell in verdict_row(results)] == [True, False, True, False, False]
