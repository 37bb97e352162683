"""Omniglot: reading archives and folders, verification, download, cache, split."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data.omniglot import PARTS, Omniglot, OmniglotPart, open_omniglot
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig, decode, fit_to_side
from tests.unit.models.pictures import encoded

SPEC = ImageConfig(channels=1, side=28)
DRAWINGS = 3


def drawing(seed: int) -> bytes:
    strokes = np.random.default_rng(seed).random((15, 15)) > 0.2
    return encoded(Image.fromarray((strokes * 255).astype(np.uint8)).resize((105, 105)).convert("1"))


def files_of(part_name: str, characters: int) -> dict[str, bytes]:
    """``part/Alphabet_0/character01/0001_01.png`` etc., with two characters per alphabet."""
    first = sum(part_name.encode())
    return {
        f"{part_name}/Alphabet_{index // 2}/character{index % 2 + 1:02d}/{index:04d}_{take:02d}.png": drawing(
            1000 * first + 10 * index + take
        )
        for index in range(characters)
        for take in range(1, DRAWINGS + 1)
    }


def part_of(name: str, files: dict[str, bytes], url: str = "http://127.0.0.1:9/none.zip") -> OmniglotPart:
    digest = hashlib.sha256()
    for path in sorted(files):
        inside = path.removeprefix(f"{name}/")
        digest.update(f"{inside}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return OmniglotPart(name, len(files) // DRAWINGS, DRAWINGS, digest.hexdigest(), url)


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


BACKGROUND = files_of("images_background", 4)
EVALUATION = files_of("images_evaluation", 2)
SMALL = (part_of("images_background", BACKGROUND), part_of("images_evaluation", EVALUATION))


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    write_zip(tmp_path / "data" / "omniglot" / "images_background.zip", BACKGROUND)
    write_zip(tmp_path / "data" / "omniglot" / "images_evaluation.zip", EVALUATION)
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(data_root: Path | None, cache: Path, spec: ImageConfig = SPEC) -> Omniglot:
    return open_omniglot(data_root, cache, spec, SMALL)


def test_each_character_is_a_class_with_its_drawings(data_root: Path, cache: Path) -> None:
    classes = opened(data_root, cache)
    assert len(classes) == 6
    assert classes.class_names[0] == "images_background/Alphabet_0/character01"
    assert classes.class_names[-1] == "images_evaluation/Alphabet_0/character02"
    assert [classes.count(index) for index in range(6)] == [DRAWINGS] * 6
    content = BACKGROUND["images_background/Alphabet_1/character02/0003_02.png"]
    assert torch.equal(classes.images(3)[1], fit_to_side(decode(content), SPEC))


def test_archives_are_found_directly_in_the_data_root(data_root: Path, cache: Path) -> None:
    first = opened(data_root, cache)
    (data_root / "omniglot").rename(data_root.parent / "flat")
    second = opened(data_root.parent / "flat", cache)
    assert torch.equal(first.images(5), second.images(5))


def test_an_unpacked_folder_is_accepted(data_root: Path, cache: Path) -> None:
    from_zip = opened(data_root, cache)
    for name in ("images_background", "images_evaluation"):
        archive = data_root / "omniglot" / f"{name}.zip"
        with zipfile.ZipFile(archive) as source:
            source.extractall(archive.parent)
        archive.unlink()
    from_folder = opened(data_root, cache)
    assert from_folder.class_names == from_zip.class_names
    assert all(torch.equal(from_folder.images(index), from_zip.images(index)) for index in range(6))


def test_a_rezipped_archive_is_accepted(data_root: Path, cache: Path) -> None:
    backwards = dict(reversed(BACKGROUND.items()))
    write_zip(data_root / "omniglot" / "images_background.zip", backwards, zipfile.ZIP_DEFLATED)
    assert len(opened(data_root, cache)) == 6


def test_a_changed_drawing_is_rejected(data_root: Path, cache: Path) -> None:
    changed = {**BACKGROUND, next(iter(BACKGROUND)): drawing(7)}
    write_zip(data_root / "omniglot" / "images_background.zip", changed)
    with pytest.raises(DatasetUnavailable, match="differ from Omniglot's images_background"):
        opened(data_root, cache)


def test_an_incomplete_archive_is_rejected(data_root: Path, cache: Path) -> None:
    write_zip(data_root / "omniglot" / "images_background.zip", dict(list(BACKGROUND.items())[:-DRAWINGS]))
    with pytest.raises(DatasetUnavailable, match="has 3 characters"):
        opened(data_root, cache)


def test_a_file_that_is_no_drawing_is_rejected_with_its_path(data_root: Path, cache: Path) -> None:
    write_zip(data_root / "omniglot" / "images_background.zip", {**BACKGROUND, next(iter(BACKGROUND)): b"text"})
    with pytest.raises(DatasetUnavailable, match=r"0000_01\.png is not one of Omniglot's drawings"):
        opened(data_root, cache)


def test_the_second_opening_reads_the_cache(data_root: Path, cache: Path) -> None:
    first = opened(data_root, cache)
    kept = sorted(cache.glob("*.npz"))
    assert len(kept) == 2
    with np.load(kept[0], allow_pickle=False) as stored:
        marked = {"class_names": stored["class_names"], "images": 255 - stored["images"]}
    np.savez(kept[0], **marked)
    assert torch.equal(opened(data_root, cache).images(0), 255 - first.images(0))


def test_each_image_size_has_its_own_cache(data_root: Path, cache: Path) -> None:
    opened(data_root, cache)
    assert opened(data_root, cache, ImageConfig(channels=3, side=32)).images(0).shape == (DRAWINGS, 3, 32, 32)


def test_a_damaged_cache_is_rebuilt(data_root: Path, cache: Path) -> None:
    first = opened(data_root, cache)
    for path in cache.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(opened(data_root, cache).images(0), first.images(0))


def test_the_cache_contains_no_temporary_files(data_root: Path, cache: Path) -> None:
    opened(data_root, cache)
    assert {path.suffix for path in cache.iterdir()} == {".npz"}


def test_the_error_for_a_failed_download_says_where_to_save_the_archive(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DatasetUnavailable, match=r"save it as omniglot/images_background.zip in the folder"):
        opened(tmp_path / "nothing", cache)


@pytest.fixture
def downloads(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Base URL of a local web server with the archives."""
    monkeypatch.setenv("no_proxy", "*")
    folder = str(data_root / "omniglot")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=folder)  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_missing_archives_are_downloaded_once(downloads: str, data_root: Path, cache: Path) -> None:
    parts = [dataclasses.replace(part, url=f"{downloads}/{part.name}.zip") for part in SMALL]
    fetched = open_omniglot(None, cache, SPEC, parts)
    assert (cache / "images_background.zip").exists()
    offline = open_omniglot(None, cache, SPEC, SMALL)
    assert torch.equal(fetched.images(0), offline.images(0))
    assert torch.equal(fetched.images(0), opened(data_root, cache).images(0))


def test_a_bad_download_is_rejected_and_removed(downloads: str, data_root: Path, cache: Path) -> None:
    write_zip(data_root / "omniglot" / "images_background.zip", {**BACKGROUND, next(iter(BACKGROUND)): drawing(7)})
    parts = [dataclasses.replace(part, url=f"{downloads}/{part.name}.zip") for part in SMALL]
    with pytest.raises(DatasetUnavailable, match="differ"):
        open_omniglot(None, cache, SPEC, parts)
    assert not (cache / "images_background.zip").exists()


def test_training_characters_are_rotated_and_test_characters_are_not(data_root: Path, cache: Path) -> None:
    classes = opened(data_root, cache)
    train, test = classes.split(seed=0, train_characters=4)
    assert (len(train), len(test)) == (16, 2)
    assert torch.equal(train.images(1), torch.rot90(train.images(0), 1, dims=(2, 3)))
    assert torch.equal(train.images(7), torch.rot90(train.images(4), 3, dims=(2, 3)))
    upright = {name.rpartition("/turn")[0] for name in train.class_names}
    assert upright.isdisjoint(test.class_names)
    assert upright | set(test.class_names) == set(classes.class_names)


def test_the_seed_determines_the_split(data_root: Path, cache: Path) -> None:
    classes = opened(data_root, cache)
    splits = [classes.split(seed, train_characters=3)[1].class_names for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1


def test_a_split_without_test_characters_is_rejected(data_root: Path, cache: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="allowed: 1 to"):
        opened(data_root, cache).split(seed=0)


def test_the_published_archives_have_1623_characters() -> None:
    assert sum(part.characters for part in PARTS) == 1623
    assert {part.drawings for part in PARTS} == {20}
    assert all(part.url.startswith("https://") for part in PARTS)


def test_the_split_for_tuning_has_no_test_character(data_root: Path, cache: Path) -> None:
    classes = opened(data_root, cache)
    train, test = classes.split(seed=0, train_characters=4)
    kept, validation = classes.split_for_tuning(seed=0, train_characters=4, validation_characters=1)
    assert set(train.class_names) == set(kept.class_names) | {
        f"{validation.class_names[0]}/turn{90 * q}" for q in range(4)
    }
    assert len(kept) == 12
    assert not set(validation.class_names) & set(test.class_names)


def test_a_split_for_tuning_keeps_training_characters(data_root: Path, cache: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="allowed: 1 to 3"):
        opened(data_root, cache).split_for_tuning(seed=0, train_characters=4, validation_characters=4)
