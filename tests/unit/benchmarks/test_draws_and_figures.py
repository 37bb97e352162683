"""What the benchmarks' tables rest on: draws that keep queries out of the support, percentiles, requests as bytes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.figures import auroc, markdown, percentile
from benchmarks.labelled_pngs import STEEL, LabelledPngs, draw, generated, steel
from benchmarks.predict_latency import as_body, as_form
from models.errors import DatasetUnavailable

URL = "http://127.0.0.1:1"


def numbered(classes: int, images: int) -> LabelledPngs:
    return LabelledPngs(
        "numbered",
        {f"class-{c}": [(f"{i}.png", f"{c}/{i}".encode()) for i in range(images)] for c in range(classes)},
    )


def test_queries_of_a_draw_are_not_in_its_support() -> None:
    task = draw(numbered(7, 20), np.random.default_rng(0), n_way=5, n_shot=10)
    taught = {file.content for file in task.support}
    asked = {content for contents in task.queries.values() for content in contents}
    assert len(taught) == 50
    assert len(asked) == 50
    assert not taught & asked
    assert {file.label for file in task.support} == set(task.queries)


def test_a_draw_labels_images_by_their_class() -> None:
    task = draw(numbered(7, 20), np.random.default_rng(1), n_way=5, n_shot=3, max_queries=4)
    assert all(file.content.decode().split("/")[0] == file.label.removeprefix("class-") for file in task.support)
    assert [len(contents) for contents in task.queries.values()] == [4] * 5


def test_the_seed_determines_the_draw() -> None:
    first, again, other = (draw(numbered(7, 20), np.random.default_rng(seed), 5, 10) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_class_without_images_for_queries_is_rejected() -> None:
    with pytest.raises(DatasetUnavailable, match="10 images and a query"):
        draw(numbered(5, 10), np.random.default_rng(0), n_way=5, n_shot=10)


def test_exact_duplicates_are_dropped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / STEEL, "w") as archive:
        for path, content in (("set/a/1.png", b"1"), ("set/a/2.png", b"1"), ("set/b/3.png", b"3")):
            archive.writestr(path, content)
    images = steel(tmp_path)
    assert {label: len(files) for label, files in images.classes.items()} == {"a": 1, "b": 1}
    assert "1 exact duplicates dropped" in images.name


def test_generated_images_are_pngs() -> None:
    images = generated(2, 3)
    contents = [content for files in images.classes.values() for _, content in files]
    assert len(set(contents)) == 6
    assert all(content.startswith(b"\x89PNG") for content in contents)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_a_measured_value(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_a_high_percentile_of_few_values_is_the_maximum() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_a_table_has_a_rule_below_its_headings() -> None:
    assert markdown(("what", "ms"), [("all", "1")]) == "| what | ms |\n| --- | ---: |\n| all | 1 |"


@pytest.mark.parametrize("write", [as_form, as_body])
def test_a_request_has_the_content_length_of_its_body(write: Callable[[str, bytes], bytes]) -> None:
    sent = write(URL, b"image")
    head, _, body = sent.partition(b"\r\n\r\n")
    announced = re.search(rb"(?i)content-length: (\d+)", head)
    assert announced is not None
    assert int(announced[1]) == len(body)
    assert b"image" in body


def test_auroc_counts_ordered_pairs_and_half_of_ties() -> None:
    assert auroc(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5])) == pytest.approx(3.5 / 4)
