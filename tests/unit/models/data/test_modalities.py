"""Datasets with a second modality, and their episodes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.data.class_dataset import ArrayDataset, DatasetSubset
from models.data.episodes import EpisodeModalities, EpisodeSampler, EpisodeShape
from models.data.omniglot import OmniglotPart
from models.data.omniglot_strokes import open_omniglot_strokes
from models.data.registry import open_dataset
from models.data.synthetic import NotedSurfaces
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig
from models.modalities.rows import Present
from models.modalities.text import TEXT_SIZE

IMAGE = ImageConfig(channels=1, side=16)
SIZE, PIXELS = 3, 256


def dataset(*, with_vectors: bool = True) -> ArrayDataset:
    """Five classes of six images; image and vector of a sample have the same number."""
    numbers = torch.arange(30).view(5, 6)
    images = [numbers[label].to(torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16) for label in range(5)]
    vectors = [numbers[label].float()[:, None].expand(-1, SIZE) for label in range(5)]
    return ArrayDataset("numbers", list("abcde"), images, vectors if with_vectors else None)


def sampler(modalities: EpisodeModalities, *, with_vectors: bool = True, anchors: int = 1) -> EpisodeSampler:
    data = DatasetSubset(dataset(with_vectors=with_vectors), [4, 3, 2, 1], "numbers, reversed")
    return EpisodeSampler(data, EpisodeShape(3, 3, 2, anchors), IMAGE, modalities=modalities)


def test_the_image_and_the_vector_of_a_row_belong_to_one_sample() -> None:
    task = sampler(EpisodeModalities(SIZE)).task(0)
    for rows in (task.support.inputs, task.query_inputs):
        assert torch.allclose(rows[:, 0] * 255, rows[:, PIXELS], atol=1e-3)
        assert bool(rows[:, -2:].all())


def test_a_second_modality_changes_neither_the_classes_nor_the_images_of_an_episode() -> None:
    alone, both = sampler(EpisodeModalities()).task(7), sampler(EpisodeModalities(SIZE)).task(7)
    assert alone.class_names == both.class_names
    assert torch.equal(alone.support.inputs.flatten(1), both.support.inputs[:, :PIXELS])


def test_support_and_queries_may_have_different_modalities() -> None:
    task = sampler(EpisodeModalities(SIZE, support="both", query="image")).task(0)
    assert bool(task.support.inputs[:, -2:].all())
    assert task.query_inputs[:, -2:].tolist() == [[1, 0]] * 6


def test_a_dataset_without_vectors_gives_images_alone() -> None:
    task = sampler(EpisodeModalities(SIZE, dropout=1.0), with_vectors=False).task(0)
    assert task.support.inputs[:, -2:].tolist() == [[1, 0]] * 9


def test_dropout_leaves_every_row_a_modality_and_spares_some_anchors() -> None:
    kinds = set()
    for seed in range(60):
        support = sampler(EpisodeModalities(SIZE, dropout=0.7)).support(seed)
        flags = support.inputs[:, -2:]
        assert bool(flags.any(1).all())
        assert support.anchors is not None
        others = torch.ones(len(flags), dtype=torch.bool)
        others[support.anchors] = False
        assert all(len(torch.unique(part, dim=0)) == 1 for part in (flags[others], flags[support.anchors]))
        kinds.add((tuple(flags[support.anchors][0].tolist()), tuple(flags[others][0].tolist())))
    both, image, second = (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)
    assert kinds == {(both, both), (image, image), (second, second), (both, image), (both, second)}


@pytest.mark.parametrize(("support", "flags"), [("image", [1, 0]), ("second", [0, 1])])
def test_dropout_never_takes_the_only_modality(support: Present, flags: list[int]) -> None:
    for seed in range(20):
        inputs = sampler(EpisodeModalities(SIZE, support, dropout=1.0)).support(seed).inputs
        assert inputs[:, -2:].tolist() == [flags] * 9


def test_surfaces_with_notes_need_both_modalities() -> None:
    data = NotedSurfaces(side=16, lines=2, invented=0, sides=[("left", "right")])
    assert len(data) == 12
    assert [data.product_line(index) for index in (0, 5, 6)] == [0, 0, 1]
    assert data.class_names[0].endswith(", left")
    assert data.class_names[1].endswith(", right")
    assert data.images(0).shape == (20, 1, 16, 16)
    assert data.vectors(0).shape == (20, TEXT_SIZE)
    assert any("left" in note for note in data.notes(0))
    assert not any("right" in note for note in data.notes(0))


def test_surfaces_with_notes_are_the_same_for_the_same_seed() -> None:
    first, again, other = (NotedSurfaces(side=16, lines=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images(3), again.images(3))
    assert first.notes(3) == again.notes(3)
    assert first.notes(3) != other.notes(3)


def test_no_side_of_a_test_line_is_trained_on() -> None:
    splits = open_dataset("surface-notes", IMAGE, None, Path("unused"))
    sides = [{name.rpartition(", ")[2] for name in data.class_names} for data in (splits.train, splits.test)]
    assert not sides[0] & sides[1]


def png() -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (16, 16), 255).save(encoded, "PNG")
    return encoded.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


CHARACTERS = ("Greek/character01", "Tagalog/character01")
DRAWING = b"START\n10,-10,0\n20,-10,9\nBREAK\n15,-5,20\n15,-15,29\nBREAK\n"


def test_omniglot_is_opened_with_its_strokes_and_its_alphabets_are_divided(tmp_path: Path) -> None:
    (tmp_path / "omniglot").mkdir()
    drawings = {f"{character}/01_{number}.txt": DRAWING for character in CHARACTERS for number in (1, 2)}
    for number in (1, 2):
        name = f"strokes_background_small{number}"
        write_zip(tmp_path / "omniglot" / f"{name}.zip", {f"{name}/{path}": text for path, text in drawings.items()})
    write_zip(
        tmp_path / "omniglot" / "images.zip",
        {f"images/{path.replace('.txt', '.png')}": png() for path in drawings},
    )
    digest = "1d0f3c24a6b2e5b0a8a0f9b7e8f1f8d0"
    part = OmniglotPart("images", 2, 2, digest, "https://unused")
    with pytest.raises(DatasetUnavailable, match="content digest") as error:
        open_omniglot_strokes(tmp_path, tmp_path, IMAGE, part)
    found = str(error.value).partition("content digest ")[2].partition(",")[0]
    part = OmniglotPart("images", 2, 2, found, "https://unused")
    train, test = open_omniglot_strokes(tmp_path, tmp_path, IMAGE, part)
    assert train.class_names == tuple(f"Greek/character01/turn{turn}" for turn in (0, 90, 180, 270))
    assert test.class_names == ("Tagalog/character01/turn0",)
    upright, turned = train.vectors(0), train.vectors(1)
    assert upright is not None
    assert turned is not None
    assert upright.shape[0] == train.count(0) == 2
    assert not torch.allclose(upright, turned)


def test_missing_strokes_are_reported_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="strokes_background_small1"):
        open_omniglot_strokes(tmp_path, tmp_path, IMAGE)
