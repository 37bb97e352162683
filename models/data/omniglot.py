"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): 1623 characters of 50 alphabets, each drawn by 20 people.

Read from the original archives ``images_background.zip`` and ``images_evaluation.zip`` or the folders unpacked from
them; missing archives are downloaded into the cache. The content of the files is verified, so re-zipped archives work
too. Each character is a class.
"""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.atomic_files import write_atomically
from models.data.archives import archive_key, read_files
from models.data.class_dataset import ArrayDataset, ClassDataset, DatasetSubset, QuarterTurnDataset
from models.errors import DatasetUnavailable, ImageRejected
from models.images.preprocessing import PREPROCESSING_VERSION, ImageConfig, decode, fit_to_side

TRAIN_CHARACTERS = 1200
VALIDATION_CHARACTERS = 240
_DOWNLOAD_TIMEOUT_S = 60.0
_DOWNLOAD_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class OmniglotPart:
    """One of the two archives and its expected content.

    Attributes:
        name: name of the folder inside, and of the archive without its extension.
        characters: number of character folders.
        drawings: images per character.
        content_digest: SHA-256 over the lines ``path NUL sha256-of-file LF``, sorted by path below ``name``.
        url: public download.
    """

    name: str
    characters: int
    drawings: int
    content_digest: str
    url: str


_DOWNLOADS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"

PARTS = (
    OmniglotPart(
        name="images_background",
        characters=964,
        drawings=20,
        content_digest="a0010054f796a6ce4a3177f43a0de49c9a47abe6bc7643630a3660cdf8cb513c",
        url=f"{_DOWNLOADS}/images_background.zip",
    ),
    OmniglotPart(
        name="images_evaluation",
        characters=659,
        drawings=20,
        content_digest="7e5a92e93f2b659d954a8ae86386252b0e20faaf14d5d959db6f60c82dd2b901",
        url=f"{_DOWNLOADS}/images_evaluation.zip",
    ),
)


class Omniglot(ArrayDataset):
    """All characters of both archives, with class names ``part/alphabet/character``."""

    def split(self, seed: int, train_characters: int = TRAIN_CHARACTERS) -> tuple[ClassDataset, ClassDataset]:
        """Split all characters at random into training and test classes (Nichol et al. 2018, section 5).

        Args:
            seed: seed of the split.
            train_characters: number of training characters; each becomes four classes by quarter turns.

        Returns:
            Training classes (4 x 1200) and test classes (423, upright).
        """
        if not 0 < train_characters < len(self):
            raise DatasetUnavailable(f"train_characters is {train_characters}; allowed: 1 to {len(self) - 1}")
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        train = DatasetSubset(self, order[:train_characters], f"{self.name} training characters, seed {seed}")
        test = DatasetSubset(self, order[train_characters:], f"{self.name} test characters, seed {seed}")
        return QuarterTurnDataset(train), test

    def split_for_tuning(
        self, seed: int, train_characters: int = TRAIN_CHARACTERS, validation_characters: int = VALIDATION_CHARACTERS
    ) -> tuple[ClassDataset, ClassDataset]:
        """Split the training characters of `split`; its test characters are in neither part.

        Args:
            seed: seed of the split.
            train_characters: as in `split`.
            validation_characters: how many of them to validate on.

        Returns:
            Training classes (4 x 960) and validation classes (240, upright).
        """
        if not 0 < validation_characters < train_characters <= len(self):
            raise DatasetUnavailable(
                f"validation_characters is {validation_characters} of {train_characters}; allowed: 1 to "
                f"{train_characters - 1}"
            )
        order = np.random.default_rng(seed).permutation(len(self)).tolist()[:train_characters]
        kept = train_characters - validation_characters
        train = DatasetSubset(self, order[:kept], f"{self.name} training characters without validation, seed {seed}")
        held_out = DatasetSubset(self, order[kept:], f"{self.name} validation characters, seed {seed}")
        return QuarterTurnDataset(train), held_out


def open_omniglot(
    data_root: Path | None, cache_folder: Path, config: ImageConfig, parts: Sequence[OmniglotPart] = PARTS
) -> Omniglot:
    """Open Omniglot and cache the decoded images in ``cache_folder``.

    Args:
        data_root: folder that contains the archives or unpacked folders, directly or in ``omniglot/``; None only looks
            in the cache.
        cache_folder: created if missing; for downloads and decoded images.
        config: channels and side of the images; contrast is applied later.
        parts: expected content; tests use smaller parts.

    Raises:
        DatasetUnavailable: the archives cannot be found or downloaded, or their content differs from Omniglot's.
    """
    class_names: list[str] = []
    arrays: list[Tensor] = []
    for part in parts:
        location = _locate(part, data_root, cache_folder)
        names, images = _cached(part, location, cache_folder, config)
        class_names += names
        arrays += list(images)
    return Omniglot("omniglot", class_names, arrays)


def _locate(part: OmniglotPart, data_root: Path | None, cache_folder: Path) -> Path:
    roots = [data_root / "omniglot", data_root] if data_root is not None else []
    for root in [*roots, cache_folder]:
        for candidate in (root / f"{part.name}.zip", root / part.name):
            if candidate.exists():
                return candidate
    return _download(part, cache_folder)


def _download(part: OmniglotPart, cache_folder: Path) -> Path:
    """Download an archive into the cache; its content is verified when it is read."""
    target = cache_folder / f"{part.name}.zip"
    try:
        with urllib.request.urlopen(part.url, timeout=_DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310 - constants, all https
            content = response.read(_DOWNLOAD_LIMIT_BYTES)
    except (OSError, urllib.error.URLError) as error:
        raise DatasetUnavailable(
            f"{part.name}.zip is not in the data root and {part.url} cannot be downloaded ({error}); "
            f"save it as omniglot/{part.name}.zip in the folder of --data-root"
        ) from error
    write_atomically(target, content, durable=False)
    return target


def _cached(part: OmniglotPart, location: Path, cache_folder: Path, config: ImageConfig) -> tuple[list[str], Tensor]:
    """Class names and images, uint8 (characters, drawings, channels, side, side), from the cache if possible."""
    kind = f"p{PREPROCESSING_VERSION}-c{config.channels}-s{config.side}"
    path = cache_folder / f"{part.name}-{archive_key(location)}-{kind}.npz"
    cached = _load_cache(path)
    if cached is not None:
        return cached
    try:
        names, images = _read(part, location, config)
    except DatasetUnavailable:
        if location.parent == cache_folder:  # remove a bad download, so that the next run downloads again
            location.unlink()
        raise
    arrays = io.BytesIO()
    np.savez_compressed(arrays, class_names=np.array(names), images=images.numpy())
    write_atomically(path, arrays.getvalue(), durable=False)
    return names, images


def _load_cache(path: Path) -> tuple[list[str], Tensor] | None:
    """Content of a cache file; None if missing or damaged."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return [str(name) for name in stored["class_names"]], torch.from_numpy(stored["images"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _read(part: OmniglotPart, location: Path, config: ImageConfig) -> tuple[list[str], Tensor]:
    drawings: dict[str, list[Tensor]] = {}
    digest = hashlib.sha256()
    for path, content in read_files(location):
        inside = path.removeprefix(f"{part.name}/")
        digest.update(f"{inside}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        character = f"{part.name}/{inside.rpartition('/')[0]}"
        drawings.setdefault(character, []).append(_decode(f"{location}: {path}", content, config))
    _verify(part, location, drawings, digest.hexdigest())
    return list(drawings), torch.stack([torch.stack(images) for images in drawings.values()])


def _decode(name: str, content: bytes, config: ImageConfig) -> Tensor:
    try:
        return fit_to_side(decode(content), config)
    except ImageRejected as error:
        raise DatasetUnavailable(f"{name} is not one of Omniglot's drawings: {error}") from error


def _verify(part: OmniglotPart, location: Path, drawings: dict[str, list[Tensor]], digest: str) -> None:
    counts = {len(images) for images in drawings.values()}
    if len(drawings) != part.characters or counts != {part.drawings}:
        raise DatasetUnavailable(
            f"{location} has {len(drawings)} characters with {sorted(counts)} drawings each; Omniglot's {part.name} "
            f"has {part.characters} with {part.drawings}: use the complete archive"
        )
    if digest != part.content_digest:
        raise DatasetUnavailable(
            f"the files in {location} differ from Omniglot's {part.name} (content digest {digest}, "
            f"expected {part.content_digest}): use the original archive"
        )
