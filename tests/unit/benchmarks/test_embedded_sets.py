"""Sets of images as inputs of a net: duplicates, objects shown several times, and episodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.embedded_sets import (
    EmbeddedSet,
    LabelledSet,
    Shape,
    draw_episode,
    embed_dataset,
    embed_files,
    embed_for,
    queries_of,
    read_set,
    support_of,
)
from models.checkpoint import load_checkpoint
from models.data.class_dataset import ArrayDataset
from models.errors import DatasetUnavailable
from tests.generated import striped, tiny_checkpoint_in

GROUPED = EmbeddedSet(
    "grouped",
    inputs=torch.arange(48.0).view(24, 2, 1),
    labels=torch.arange(24) // 8,
    groups=torch.arange(24) % 8,  # object g is in all three classes
)


def write(folder: Path, contents: dict[str, list[bytes]]) -> Path:
    for label, images in contents.items():
        (folder / label).mkdir(parents=True)
        for number, content in enumerate(images):
            (folder / label / f"{label}{number // 2}_{number}.png").write_bytes(content)
    return folder


def objects(files: LabelledSet) -> list[str]:
    return [file.group for file in files.files]


def test_exact_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    images = striped(3, 3)
    files = read_set(write(tmp_path / "set", {"a": [*images, images[0]], "b": striped(2, 9)}), max_per_class=10)
    assert ([file.label for file in files.files], files.dropped) == (["a", "a", "a", "b", "b"], 1)
    assert len(set(objects(files))) == 5


def test_large_classes_are_drawn_from_by_seed(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", {"a": striped(8, 3), "b": striped(8, 9)})
    first, again, other = (read_set(folder, 3, seed) for seed in (0, 0, 1))
    assert len(first.files) == 6
    assert first == again
    assert first.digest != other.digest


def test_a_table_in_the_set_names_the_object_of_each_image(tmp_path: Path) -> None:
    folder = write(tmp_path / "boards", {"a": striped(2, 3), "b": striped(2, 9)})
    rows = ["image,group", "a0_0.png,one", "a0_1.png,two", "b0_0.png,one", "b0_1.png,two"]
    (folder / "groups.csv").write_text("\n".join(rows))
    assert objects(read_set(folder, 10)) == ["one", "two", "one", "two"]


def test_file_names_of_blood_cells_name_the_photograph(tmp_path: Path) -> None:
    folder = write(tmp_path / "bccd_crops", {"a": striped(3, 3), "b": striped(1, 9)})
    assert objects(read_set(folder, 10)) == ["a0", "a0", "a1", "b0"]


def test_a_set_without_class_folders_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="1 class folders with images; at least 2"):
        read_set(write(tmp_path / "set", {"a": striped(2, 3)}), 10)


def test_support_and_queries_never_show_the_same_object() -> None:
    for seed in range(20):
        episode = draw_episode(GROUPED, Shape(n_way=2, n_shot=2, n_query=3), seed)
        seen = set(GROUPED.groups[episode.support.flatten()].tolist())
        assert seen.isdisjoint(GROUPED.groups[episode.queries].tolist())
        assert seen.isdisjoint(GROUPED.groups[episode.others].tolist())
        labels = GROUPED.labels[episode.support]
        assert (labels == labels[:, :1]).all()
        assert torch.equal(GROUPED.labels[episode.queries], labels[episode.query_labels, 0])
        assert set(GROUPED.labels[episode.others].tolist()).isdisjoint(labels.flatten().tolist())


def test_the_seed_determines_the_episode() -> None:
    first, again, other = (draw_episode(GROUPED, Shape(2, 2, 3), seed) for seed in (1, 1, 2))
    assert torch.equal(first.support, again.support)
    assert torch.equal(first.queries, again.queries)
    assert not torch.equal(first.support, other.support)


def test_an_episode_without_free_objects_is_rejected() -> None:
    with pytest.raises(DatasetUnavailable, match="shares no object with the support"):
        draw_episode(GROUPED, Shape(3, 7, 3), 0)


def test_accuracy_is_the_mean_over_classes() -> None:
    episode = draw_episode(GROUPED, Shape(2, 2, 3), 0)
    unequal = type(episode)(episode.support, torch.arange(4), torch.tensor([0, 0, 0, 1]), episode.others)
    assert unequal.accuracy(torch.tensor([0, 0, 0, 0])) == 0.5


def test_a_support_has_all_samples_before_their_next_view() -> None:
    episode = draw_episode(GROUPED, Shape(2, 2, 3), 0)
    support = support_of(GROUPED, episode)
    rows = episode.support.flatten()
    assert support.views == 2
    assert torch.equal(support.inputs, torch.cat([GROUPED.inputs[rows, 0], GROUPED.inputs[rows, 1]]))
    assert support.labels.tolist() == [0, 0, 1, 1] * 2
    assert torch.equal(queries_of(GROUPED, episode.queries), GROUPED.inputs[episode.queries, 0])


def test_a_net_without_backbone_gets_the_images(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint_in(tmp_path))
    files = read_set(write(tmp_path / "set", {"a": striped(2, 3), "b": striped(2, 9)}), 10)
    data = embed_for(files, checkpoint, tmp_path / "cache")
    assert data.inputs.shape == (4, 1, 1, 28, 28)
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert not (tmp_path / "cache").exists()


def test_features_are_read_from_the_cache(tmp_path: Path) -> None:
    files = read_set(write(tmp_path / "set", {"a": striped(2, 3), "b": striped(2, 9)}), 10)
    cached = tmp_path / "cache" / "set.safetensors"
    first = embed_files(files, lambda images: torch.ones(len(images), 1, 3), cached)
    again = embed_files(files, lambda images: torch.zeros(len(images), 1, 3), cached)
    assert torch.equal(first.inputs, torch.ones(4, 1, 3))
    assert torch.equal(again.inputs, first.inputs)
    assert torch.equal(again.labels, first.labels)


def test_the_first_classes_of_a_dataset_are_embedded(tmp_path: Path) -> None:
    arrays = [torch.full((2 + index, 1, 28, 28), 50 * index, dtype=torch.uint8) for index in range(3)]
    dataset = ArrayDataset("grey", ["a", "b", "c"], arrays)
    data = embed_dataset(dataset, load_checkpoint(tiny_checkpoint_in(tmp_path)), max_classes=2)
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.groups.tolist() == [0, 1, 2, 3, 4]
    assert data.inputs.shape == (5, 1, 1, 28, 28)
