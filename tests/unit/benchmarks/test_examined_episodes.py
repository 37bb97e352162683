"""The episodes that the examination's claims are measured on."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.examination import FLIPPED, flip_row, honesty_row, verdict_row
from benchmarks.examined_episodes import EpisodeDraw, draw, outcomes
from models.adaptation.adapt import ALONE
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.class_dataset import ArrayDataset
from tests.generated import tiny_checkpoint_in

SHAPE = EpisodeDraw(ways=3, shots=4, queries=6, flipped=0.25)


def blobs() -> ArrayDataset:
    """Classes of noise around a grey level of their own."""
    generator = torch.Generator().manual_seed(0)
    arrays = [
        (24 * level + 10 + 40 * torch.rand(12, 1, 28, 28, generator=generator)).to(torch.uint8) for level in range(8)
    ]
    return ArrayDataset("blobs", [f"level {level}" for level in range(8)], arrays)


def tiny(folder: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint_in(folder)))


def test_an_episode_is_a_function_of_its_seed(tmp_path: Path) -> None:
    checkpoint = tiny(tmp_path)
    first, again, other = (draw(blobs(), SHAPE, checkpoint, seed) for seed in (1, 1, 2))
    assert torch.equal(first.support.images, again.support.images)
    assert torch.equal(first.support.labels, again.support.labels)
    assert not torch.equal(first.support.images, other.support.images)


def test_as_many_labels_are_flipped_as_asked_and_none_to_itself(tmp_path: Path) -> None:
    drawn = draw(blobs(), SHAPE, tiny(tmp_path), 3)
    assert int((drawn.support.labels != drawn.true_labels).sum()) == 3
    assert (len(drawn.queries[0]), len(drawn.strange)) == (18, 50)


def test_rows_are_made_of_examined_episodes(tmp_path: Path) -> None:
    judged = list(outcomes(blobs(), SHAPE, tiny(tmp_path), range(3), ALONE))
    assert len(honesty_row(judged)) == 6
    assert len(verdict_row(judged)) == 4
    found, false = (float(cell.removesuffix(" %")) for cell in flip_row(judged))
    assert 0 <= false <= 100
    assert 0 <= found <= 100
    assert 0 < FLIPPED < 1
