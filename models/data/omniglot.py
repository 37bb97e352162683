"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): 1623 characters of 50 alphabets, each drawn by 20 people.

Read from the original archives ``images_background.zip`` and ``images_evaluation.zip``, from folders unpacked from
them, or fetched into the cache. What is read is verified by content, so a re-zipped archive is as good as the original.
This module refuses to know episodes and nets; it hands out one class for each character.
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
_FETCH_TIMEOUT_S = 60.0
_FETCH_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class OmniglotPart:
    """One of the two archives and what its content must be.

    Attributes:
        name: name of the folder inside, and of the archive without its ending.
        characters: number of character folders.
        drawings: images in each character folder.
        content_digest: SHA-256 over the lines ``path NUL sha256-of-file LF``, sorted by path below ``name``.
        url: the public download.
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
    """All characters of both archives: class names are ``part/alphabet/character``, in that order."""

    def split(self, seed: int, train_characters: int = TRAIN_CHARACTERS) -> tuple[ClassDataset, ClassDataset]:
        """Shuffles all characters, whatever their alphabet, into training and test classes (Nichol et al. 2018, 5).

        Args:
            seed: of the shuffle.
            train_characters: how many go to training; each becomes four classes by quarter turns.

        Returns:
            Training classes (4 x 1200) and test classes (423, upright).
        """
        if not 0 < train_characters < len(self):
            raise DatasetUnavailable(f"{train_characters} of {len(self)} characters for training; both parts need some")
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        train = DatasetSubset(self, order[:train_characters], f"{self.name} training characters, seed {seed}")
        test = DatasetSubset(self, order[train_characters:], f"{self.name} test characters, seed {seed}")
        return QuarterTurnDataset(train), test


def open_omniglot(
    data_root: Path | None, cache_folder: Path, spec: ImageConfig, parts: Sequence[OmniglotPart] = PARTS
) -> Omniglot:
    """Opens Omniglot at the spec's channels and side; decoded images are kept in ``cache_folder`` for the next time.

    Args:
        data_root: where archives or unpacked folders are looked for, in it and in its folder ``omniglot``; None looks
            in the cache alone.
        cache_folder: made if missing; downloads and decoded arrays go there.
        spec: channels and side; contrast is left to ``models.images.preprocessing.normalise``.
        parts: what the archives must hold; other than the default in tests alone.

    Raises:
        DatasetUnavailable: not found and not to be fetched, or the content is not Omniglot's.
    """
    class_names: list[str] = []
    arrays: list[Tensor] = []
    for part in parts:
        location = _locate(part, data_root, cache_folder)
        names, images = _cached(part, location, cache_folder, spec)
        class_names += names
        arrays += list(images)
    return Omniglot("omniglot", class_names, arrays)


def _locate(part: OmniglotPart, data_root: Path | None, cache_folder: Path) -> Path:
    roots = [data_root / "omniglot", data_root] if data_root is not None else []
    for root in [*roots, cache_folder]:
        for candidate in (root / f"{part.name}.zip", root / part.name):
            if candidate.exists():
                return candidate
    return _fetch(part, cache_folder)


def _fetch(part: OmniglotPart, cache_folder: Path) -> Path:
    """Downloads an archive into the cache; its content is verified like any other's when it is read."""
    target = cache_folder / f"{part.name}.zip"
    try:
        with urllib.request.urlopen(part.url, timeout=_FETCH_TIMEOUT_S) as answer:  # noqa: S310 - constants, all https
            content = answer.read(_FETCH_LIMIT_BYTES)
    except (OSError, urllib.error.URLError) as error:
        raise DatasetUnavailable(
            f"{part.name}.zip is not under the data root and {part.url} cannot be fetched ({error}); "
            f"put it as omniglot/{part.name}.zip under the folder that --data-root names"
        ) from error
    write_atomically(target, content, durable=False)
    return target


def _cached(part: OmniglotPart, location: Path, cache_folder: Path, spec: ImageConfig) -> tuple[list[str], Tensor]:
    """Class names and uint8 (characters, drawings, channels, side, side), from the cache where it has them."""
    kind = f"p{PREPROCESSING_VERSION}-c{spec.channels}-s{spec.side}"
    path = cache_folder / f"{part.name}-{archive_key(location)}-{kind}.npz"
    kept = _kept(path)
    if kept is not None:
        return kept
    try:
        names, images = _read(part, location, spec)
    except DatasetUnavailable:
        if location.parent == cache_folder:  # a bad download must not stand in the way of the next one
            location.unlink()
        raise
    arrays = io.BytesIO()
    np.savez_compressed(arrays, class_names=np.array(names), images=images.numpy())
    write_atomically(path, arrays.getvalue(), durable=False)
    return names, images


def _kept(path: Path) -> tuple[list[str], Tensor] | None:
    """What an earlier run left in the cache; a damaged file counts as none."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return [str(name) for name in stored["class_names"]], torch.from_numpy(stored["images"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _read(part: OmniglotPart, location: Path, spec: ImageConfig) -> tuple[list[str], Tensor]:
    drawings: dict[str, list[Tensor]] = {}
    digest = hashlib.sha256()
    for path, content in read_files(location):
        inside = path.removeprefix(f"{part.name}/")
        digest.update(f"{inside}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        character = f"{part.name}/{inside.rpartition('/')[0]}"
        drawings.setdefault(character, []).append(_drawing(f"{location}: {path}", content, spec))
    _verify(part, location, drawings, digest.hexdigest())
    return list(drawings), torch.stack([torch.stack(images) for images in drawings.values()])


def _drawing(name: str, content: bytes, spec: ImageConfig) -> Tensor:
    try:
        return fit_to_side(decode(content), spec)
    except ImageRejected as error:
        raise DatasetUnavailable(f"{name} is not one of Omniglot's drawings: {error}") from error


def _verify(part: OmniglotPart, location: Path, drawings: dict[str, list[Tensor]], digest: str) -> None:
    counts = {len(images) for images in drawings.values()}
    if len(drawings) != part.characters or counts != {part.drawings}:
        raise DatasetUnavailable(
            f"{location} holds {len(drawings)} characters with {sorted(counts)} drawings each; "
            f"Omniglot's {part.name} has {part.characters} with {part.drawings}: put the complete archive there"
        )
    if digest != part.content_digest:
        raise DatasetUnavailable(
            f"the files in {location} differ from Omniglot's {part.name} (content digest {digest}, "
            f"expected {part.content_digest}): put the original archive there"
        )
