"""Episodes of the cross-validation benchmark."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.cross_validation import (
    FLIPPED,
    EpisodeSettings,
    draw,
    episode_results,
    flip_row,
    honesty_row,
    verdict_row,
)
from models.adaptation.adapt import BatchingOptions
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.class_dataset import ArrayDataset
from tests.generated import tiny_checkpoint_in

SHAPE = EpisodeSettings(ways=3, shots=4, queries=6, flipped=0.25)


def blobs() -> ArrayDataset:
    """Classes of noise around different grey levels."""
    generator = torch.Generator().manual_seed(0)
    arrays = [
        (24 * level + 10 + 40 * torch.rand(12, 1, 28, 28, generator=generator)).to(torch.uint8) for level in range(8)
    ]
    return ArrayDataset("blobs", [f"level {level}" for level in range(8)], arrays)


def tiny(folder: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint_in(folder)))


def test_the_seed_determines_the_episode(tmp_path: Path) -> None:
    checkpoint = tiny(tmp_path)
    first, again, other = (draw(blobs(), SHAPE, checkpoint, seed) for seed in (1, 1, 2))
    assert torch.equal(first.support.inputs, again.support.inputs)
    assert torch.equal(first.support.labels, again.support.labels)
    assert not torch.equal(first.support.inputs, other.support.inputs)


def test_the_requested_share_of_labels_is_flipped(tmp_path: Path) -> None:
    episode = draw(blobs(), SHAPE, tiny(tmp_path), 3)
    assert int((episode.support.labels != episode.true_labels).sum()) == 3
    assert (len(episode.queries[0]), len(episode.unknown)) == (18, 50)


def test_rows_are_computed_from_episodes(tmp_path: Path) -> None:
    results = list(episode_results(blobs(), SHAPE, tiny(tmp_path), range(3), BatchingOptions()))
    assert len(honesty_row(results)) == 6
    assert len(verdict_row(results)) == 4
    found, false = (float(cell.removesuffix(" %")) for cell in flip_row(results))
    assert 0 <= false <= 100
    assert 0 <= found <= 100
    assert 0 < FLIPPED < 1
