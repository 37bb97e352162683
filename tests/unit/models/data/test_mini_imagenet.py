"""mini-ImageNet, with a small generated dataset: layouts, split files, counts, cache, a short training run."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.checkpoint import load_checkpoint
from models.config import PRESETS, preset
from models.data import registry as catalogue
from models.data.mini_imagenet import SPLITS, MiniImagenet, SplitSizes, open_mini_imagenet
from models.data.registry import open_dataset
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig, decode, fit_to_side
from models.meta import curve, training
from service.cli import main as cli
from service.cli import train as learn
from tests.unit.models.pictures import encoded, scene

Anole = Callable[[str], tuple[int, str, str]]

SPEC = ImageConfig(channels=3, side=16)
SIZES = SplitSizes(train=3, val=2, test=2, images_per_class=4)
CLASSES = {"train": ("n03", "n01", "n07"), "val": ("n02", "n05"), "test": ("n04", "n06")}


def picture(label: str, number: int) -> bytes:
    return encoded(Image.fromarray(scene(20, 18, 100 * int(label[1:]) + number)), "JPEG")


def file_name(label: str, number: int) -> str:
    return f"{label}{number:08}.jpg"


def lay_out(root: Path, image_path: str) -> Path:
    """Write the generated dataset to `root`. `image_path` contains {label} and {name}."""
    folder = root / "mini-imagenet"
    for split, labels in CLASSES.items():
        rows = ["filename,label"]
        for label in labels:
            for number in range(SIZES.images_per_class):
                name = file_name(label, number)
                rows.append(f"{name},{label}")
                path = folder / image_path.format(label=label, name=name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(label, number))
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "data", "images/{name}")


def opened(root: Path, tmp_path: Path) -> MiniImagenet:
    return open_mini_imagenet(root, tmp_path / "cache", SPEC, SIZES)


def test_the_split_files_determine_the_split_of_each_class(flat: Path, tmp_path: Path) -> None:
    parts = opened(flat, tmp_path)
    assert parts.train.class_names == ("n01", "n03", "n07")
    assert parts.val.class_names == ("n02", "n05")
    assert parts.test.class_names == ("n04", "n06")
    assert [parts.test.count(index) for index in range(2)] == [4, 4]
    for number in range(4):
        expected = fit_to_side(decode(picture("n03", number)), SPEC)
        assert torch.equal(parts.train.images(1)[number], expected)


@pytest.mark.parametrize("image_path", ["{label}/{name}", "images/{label}/{name}", "train/{label}/{name}"])
def test_class_folders_give_the_same_images_as_one_folder(flat: Path, tmp_path: Path, image_path: str) -> None:
    in_folders = opened(lay_out(tmp_path / "other", image_path), tmp_path)
    for split in SPLITS:
        one, other = getattr(opened(flat, tmp_path), split), getattr(in_folders, split)
        assert one.class_names == other.class_names
        assert all(torch.equal(one.images(index), other.images(index)) for index in range(len(one)))


def test_the_split_files_can_be_in_another_folder(flat: Path, tmp_path: Path) -> None:
    (flat / "mini-imagenet/split").mkdir()
    for split in SPLITS:
        (flat / f"mini-imagenet/{split}.csv").rename(flat / f"mini-imagenet/split/{split}.csv")
    assert opened(flat, tmp_path).test.class_names == ("n04", "n06")


def test_the_validation_classes_can_be_evaluated(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MINI_IMAGENET_SIZES", SIZES)
    test, val = (open_dataset(name, SPEC, flat, tmp_path / "cache") for name in ("mini-imagenet", "mini-imagenet:val"))
    assert (test.test.class_names, val.test.class_names) == (("n04", "n06"), ("n02", "n05"))
    assert test.train.class_names == val.train.class_names
    assert test.record == val.record


def test_files_in_class_folders_can_have_any_name(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "data", "{label}/{name}")
    for path in sorted((root / "mini-imagenet").rglob("*.jpg")):
        path.rename(path.with_name(f"own_{path.name}"))
    assert opened(root, tmp_path).train.class_names == ("n01", "n03", "n07")


def test_images_outside_the_split_files_are_ignored(flat: Path, tmp_path: Path) -> None:
    (flat / "mini-imagenet/images/n0100000099.jpg").write_bytes(picture("n01", 99))
    assert opened(flat, tmp_path).train.count(0) == 4


def test_a_zip_gives_the_same_images_as_the_folder(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "mini-imagenet.zip", "w") as archive:
        for path in sorted((flat / "mini-imagenet").rglob("*.*")):
            archive.write(path, path.relative_to(flat))
    from_zip, from_folder = opened(tmp_path / "zipped", tmp_path), opened(flat, tmp_path)
    assert torch.equal(from_zip.test.images(1), from_folder.test.images(1))


def test_the_second_opening_reads_the_cache_and_a_damaged_cache_is_rebuilt(flat: Path, tmp_path: Path) -> None:
    first = opened(flat, tmp_path).train.images(0).clone()
    kept = sorted((tmp_path / "cache").glob("mini-imagenet-train-*.npy"))
    assert len(kept) == 1
    written_at = kept[0].stat().st_mtime_ns
    assert torch.equal(opened(flat, tmp_path).train.images(0), first)
    assert kept[0].stat().st_mtime_ns == written_at
    kept[0].write_bytes(kept[0].read_bytes()[:200])
    assert torch.equal(opened(flat, tmp_path).train.images(0), first)


@pytest.mark.parametrize("root", [None, Path("nowhere")])
def test_the_error_for_a_missing_dataset_describes_the_layout(root: Path | None, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match=r"no public download, .*train\.csv"):
        open_mini_imagenet(root, tmp_path, SPEC)


def test_a_missing_split_file_is_rejected_with_its_name(flat: Path, tmp_path: Path) -> None:
    (flat / "mini-imagenet/val.csv").unlink()
    with pytest.raises(DatasetUnavailable, match=r"has no val\.csv"):
        opened(flat, tmp_path)


def test_a_split_file_without_labels_is_rejected(flat: Path, tmp_path: Path) -> None:
    (flat / "mini-imagenet/val.csv").write_text("file,class\na.jpg,n02\n")
    with pytest.raises(DatasetUnavailable, match="expected filename,label"):
        opened(flat, tmp_path)


def test_a_class_in_two_splits_is_rejected(flat: Path, tmp_path: Path) -> None:
    shutil.copy(flat / "mini-imagenet/train.csv", flat / "mini-imagenet/val.csv")
    with pytest.raises(DatasetUnavailable, match=r"n01, n03, n07 of val\.csv"):
        opened(flat, tmp_path)


def test_a_missing_image_is_detected_before_decoding(flat: Path, tmp_path: Path) -> None:
    (flat / "mini-imagenet/images" / file_name("n05", 2)).unlink()
    with pytest.raises(DatasetUnavailable, match=r"4 images, but n05 has 3"):
        opened(flat, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_the_published_counts_are_expected_by_default(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="has 3 classes; expected 64"):
        open_mini_imagenet(flat, tmp_path / "cache", SPEC)


def test_a_file_that_is_no_image_is_rejected_and_nothing_is_cached(flat: Path, tmp_path: Path) -> None:
    (flat / "mini-imagenet/images" / file_name("n04", 1)).write_bytes(b"not a picture")
    with pytest.raises(DatasetUnavailable, match=r"n0400000001\.jpg is not an image"):
        opened(flat, tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def anole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Anole:
    """Run a command line with small counts and few inner steps; return exit code, stdout and stderr."""
    chosen = PRESETS["mini-imagenet"]
    few = replace(chosen, serve=replace(chosen.serve, steps=2), meta=replace(chosen.meta, meta_batch=1))
    monkeypatch.setitem(PRESETS, "mini-imagenet", few)
    monkeypatch.setattr(catalogue, "MINI_IMAGENET_SIZES", SIZES)
    monkeypatch.setattr(learn, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(curve, "can_plot", lambda: False)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anole", *line.split()])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        captured = capsys.readouterr()
        return int(exited.value.code or 0), captured.out, captured.err

    return run


class InterruptedOnce(curve.LearningCurve):
    """Interrupts the training after its first meta step."""

    def append(self, meta_step: int, loss: float, seconds: float, *, last: bool) -> None:
        super().append(meta_step, loss, seconds, last=last)
        if meta_step == 1:
            raise KeyboardInterrupt


def test_the_command_line_trains_resumes_and_evaluates(
    anole: Anole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = lay_out(tmp_path / "data", "{label}/{name}"), tmp_path / "mini.safetensors"
    common = f"--dataset mini-imagenet --data-root {root} --ways 2 --device cpu"
    train = f"train {common} --shots 3 --meta-steps 2 --out {out}"
    monkeypatch.setattr(training, "LearningCurve", InterruptedOnce)
    code, _, stderr = anole(train)
    assert (code, load_checkpoint(out).training["meta_step"]) == (130, 1), stderr
    code, _, stderr = anole(train)
    assert code == 0, stderr
    assert "is at meta step 1 of 2; resuming" in stderr

    trained = load_checkpoint(out)
    assert (trained.net_config.pooling, trained.net_config.image.side, trained.net_config.width) == ("max", 84, 32)
    assert trained.training["data"]["sets"][0]["name"] == "mini-imagenet"
    code, printed, stderr = anole(f"evaluate {common} --shots 2 --queries 2 --episodes 2 --json --checkpoint {out}")
    assert code == 0, stderr
    assert json.loads(printed)["data"] == "mini-ImageNet test classes"


def test_the_command_line_reports_a_wrong_layout_in_one_line(anole: Anole, tmp_path: Path) -> None:
    for split in (
        "train",
        "val",
        "test",
    ):  # class folders in a folder per split, as in other projects, and no split files
        (tmp_path / "data" / "mini-imagenet" / split / "n01").mkdir(parents=True)
        (tmp_path / "data" / "mini-imagenet" / split / "n01" / "1.jpg").write_bytes(picture("n01", 1))
    out = tmp_path / "mini.safetensors"
    code, _, stderr = anole(f"train --dataset mini-imagenet --data-root {tmp_path / 'data'} --out {out}")
    assert code == 1
    assert "has no train.csv" in stderr
    assert "columns filename,label" in stderr
    assert not out.exists()


@pytest.mark.parametrize(("shots", "batch_size"), [(5, 15), (1, 5)])
def test_the_paper_presets_have_its_values(shots: int, batch_size: int) -> None:
    """Compared with Reptile, arXiv:1803.02999, appendix A, table for mini-ImageNet."""
    chosen = preset("mini-imagenet-paper" if shots == 5 else "mini-imagenet-paper-1-shot")
    assert (chosen.recipe.optimiser, chosen.recipe.learning_rate) == ("adam", 0.001)
    assert (chosen.recipe.batch_size, chosen.recipe.steps) == (10, 8)
    assert (chosen.serve.batch_size, chosen.serve.steps) == (batch_size, 50)
    assert (chosen.meta.train_shots, chosen.meta.meta_batch, chosen.meta.meta_steps) == (15, 5, 100_000)
    assert (chosen.meta.step_size, chosen.meta.final_step_size, chosen.meta.n_way) == (1.0, 0.0, 5)
    assert {loop.statistics for loop in (chosen.recipe, chosen.serve)} == {"batch"}
