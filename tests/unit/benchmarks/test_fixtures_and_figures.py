"""Draws, statistics, tables, command-line options and prepared requests."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.figures import Parser, auroc, markdown, percentile, script
from benchmarks.fixtures import DEFAULT_MODEL, STEEL, ImageFiles, adapt_checkpoint, draw, folded, generated, steel
from benchmarks.http_load import as_body, as_form, run_wrk
from models.errors import DatasetUnavailable
from models.inference.predict import PredictionRequest, predict_images

URL = "http://127.0.0.1:1"


def numbered(classes: int, images: int) -> ImageFiles:
    return ImageFiles(
        "numbered",
        {f"class-{c}": [(f"{i}.png", f"{c}/{i}".encode()) for i in range(images)] for c in range(classes)},
    )


def test_queries_of_a_draw_are_not_in_its_support() -> None:
    task = draw(numbered(7, 20), np.random.default_rng(0), n_way=5, n_shot=10)
    support = {file.content for file in task.support}
    queries = {content for contents in task.queries.values() for content in contents}
    assert len(support) == 50
    assert len(queries) == 50
    assert not support & queries
    assert {file.label for file in task.support} == set(task.queries)


def test_the_support_of_a_draw_has_the_right_labels() -> None:
    task = draw(numbered(7, 20), np.random.default_rng(1), n_way=5, n_shot=3, max_queries=4)
    assert all(file.content.decode().split("/")[0] == file.label.removeprefix("class-") for file in task.support)
    assert [len(contents) for contents in task.queries.values()] == [4] * 5


def test_the_seed_determines_the_draw() -> None:
    first, again, other = (draw(numbered(7, 20), np.random.default_rng(seed), 5, 10) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_draw_fails_if_a_class_has_no_image_left_for_a_query() -> None:
    with pytest.raises(DatasetUnavailable, match="10 images and a query each are needed"):
        draw(numbered(5, 10), np.random.default_rng(0), n_way=5, n_shot=10)


def test_exact_duplicates_are_dropped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / STEEL, "w") as archive:
        for path, content in (("set/a/1.png", b"1"), ("set/a/2.png", b"1"), ("set/b/3.png", b"3")):
            archive.writestr(path, content)
    images = steel(tmp_path)
    assert {label: len(files) for label, files in images.classes.items()} == {"a": 1, "b": 1}
    assert "1 exact duplicates dropped" in images.name


def test_generated_images_are_different_pngs() -> None:
    images = generated(2, 3)
    contents = [content for files in images.classes.values() for _, content in files]
    assert len(set(contents)) == 6
    assert all(content.startswith(b"\x89PNG") for content in contents)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_the_99th_percentile_of_few_values_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_a_table_has_a_delimiter_row_below_its_headings() -> None:
    assert markdown(("what", "ms"), [("all", "1")]) == "| what | ms |\n| --- | ---: |\n| all | 1 |"


@pytest.mark.parametrize("write", [lambda url, image: as_form(url, [image]), as_body], ids=["form", "body"])
def test_a_prepared_request_has_the_length_of_its_body(write: Callable[[str, bytes], bytes]) -> None:
    sent = write(URL, b"image")
    head, _, body = sent.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    assert int(length[1]) == len(body)
    assert b"image" in body


def test_auroc_counts_correctly_ordered_pairs_and_half_of_the_ties() -> None:
    assert auroc(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5])) == pytest.approx(3.5 / 4)


def test_an_option_has_the_type_of_its_default_and_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("what it measures")
    parser.option("--rounds", 3, "rounds", least=1)
    parser.option("--shots", [1, 5], "shots")
    arguments = parser.parse_args(["--shots", "2"])
    assert (arguments.rounds, arguments.shots) == (3, [2])
    assert "shots (default: 1 5)" in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--rounds", "0"])
    assert "got 0, must be at least 1" in capsys.readouterr().err


def test_a_script_ends_with_the_message_of_an_expected_error() -> None:
    @script
    def main() -> None:
        raise DatasetUnavailable("there are no images")

    with pytest.raises(SystemExit, match="error: there are no images"):
        main()


@pytest.mark.parametrize("model", [DEFAULT_MODEL, "omniglot"])
def test_versions_of_any_start_predict_with_the_services_predictor(model: str) -> None:
    version = adapt_checkpoint(model, generated(5, 12), seed=0, max_queries=2)
    predictor, inputs = version.predictor(), version.inputs(version.images)
    assert predictor is not None
    for adapted in (version.adapted, *version.more_versions(1)):
        weights = folded(adapted)
        request = PredictionRequest(predictor.serving_weights(weights), inputs.numpy())
        expected = predict_images(version.net, weights, inputs).probabilities
        # Permuted weights give large logits, which magnify rounding; see test_predictor.py for ordinary weights.
        assert torch.allclose(predictor.predict([request])[0].probabilities, expected, atol=1e-3)


def test_latencies_of_whole_seconds_are_read_from_the_output_of_wrk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrk = tmp_path / "wrk"
    wrk.write_text(
        "#!/bin/sh\nprintf '     50%%    1.67s \\n     99%%  179.00ms\\n  8 requests in 2.00s, 2.43KB read\\n'\n"
    )
    wrk.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    result = run_wrk(URL, tmp_path / "script.lua", connections=1, seconds=1, pid=os.getpid())
    assert [result.p50_s, result.p99_s, result.requests_per_s] == pytest.approx([1.67, 0.179, 4.0])
