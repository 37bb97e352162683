"""Omniglot's drawings with the pen strokes that made them: ten sets of characters, of eight alphabets.

The strokes are in ``strokes_background_small1.zip`` and ``strokes_background_small2.zip`` beside Omniglot's images, or
unpacked. A drawing has the same file name in both. Alphabets are divided: no character of the test alphabets, nor any
character like it, is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.data.archives import read_files
from models.data.class_dataset import ArrayDataset, ClassDataset
from models.data.omniglot import PARTS, OmniglotPart, open_omniglot
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig
from models.modalities.strokes import quarter_turned, resample, strokes_vectors

TRAIN_ALPHABETS = ("Early_Aramaic", "Greek", "Japanese_(katakana)", "Latin", "Sanskrit")
TEST_ALPHABETS = ("Balinese", "Korean", "Tagalog")
ARCHIVES = ("strokes_background_small1", "strokes_background_small2")

Floats = NDArray[np.float32]


def open_omniglot_strokes(
    data_root: Path | None, cache_folder: Path, config: ImageConfig, part: OmniglotPart = PARTS[0]
) -> tuple[ClassDataset, ClassDataset]:
    """Open the drawings whose strokes are known.

    Args:
        data_root: folder with the images and strokes of Omniglot, directly or in ``omniglot/``.
        cache_folder: for decoded images.
        config: channels and side of the images.
        part: the images; tests use a smaller part.

    Returns:
        Training classes, each character in four quarter turns, and test classes, upright.

    Raises:
        DatasetUnavailable: an archive is missing, or its drawings are not those of the images.
    """
    strokes = _read(data_root)
    images = open_omniglot(data_root, cache_folder, config, [part])
    index_of = {name.removeprefix(f"{part.name}/"): index for index, name in enumerate(images.class_names)}

    def dataset(name: str, alphabets: Sequence[str], turns: int) -> ClassDataset:
        names, pictures, vectors = [], [], []
        for character in sorted(each for each in strokes if each.partition("/")[0] in alphabets):
            if character not in index_of or images.count(index_of[character]) != len(strokes[character]):
                raise DatasetUnavailable(
                    f"the strokes of {character} have {len(strokes[character])} drawings, the images of {part.name} "
                    "another number; use the complete archives"
                )
            drawn = images.images(index_of[character])
            for quarters in range(turns):
                names.append(f"{character}/turn{90 * quarters}")
                pictures.append(torch.rot90(drawn, quarters, dims=(2, 3)).contiguous())
                vectors.append(strokes_vectors(quarter_turned(strokes[character], quarters)))
        return ArrayDataset(f"Omniglot with strokes, {name} alphabets", names, pictures, vectors)

    return dataset("training", TRAIN_ALPHABETS, 4), dataset("test", TEST_ALPHABETS, 1)


def _read(data_root: Path | None) -> dict[str, Floats]:
    """``alphabet/character`` -> (drawings, points, 3), in the order of the file names; see `resample`."""
    drawings: dict[str, dict[str, Floats]] = {}
    for archive in ARCHIVES:
        for path, content in read_files(_locate(archive, data_root)):
            character, _, name = path.removeprefix(f"{archive}/").rpartition("/")
            drawings.setdefault(character, {})[name] = resample(_parse(f"{archive}: {path}", content))
    return {character: np.stack([files[name] for name in sorted(files)]) for character, files in drawings.items()}


def _locate(archive: str, data_root: Path | None) -> Path:
    for root in [] if data_root is None else [data_root / "omniglot", data_root]:
        for candidate in (root / f"{archive}.zip", root / archive):
            if candidate.exists():
                return candidate
    raise DatasetUnavailable(
        f"{archive}.zip is not in the data root {data_root}; download it from github.com/brendenlake/omniglot, folder "
        "python, and name its folder with --data-root"
    )


def _parse(name: str, content: bytes) -> list[Floats]:
    """Strokes of a drawing, (points, 2) each, from lines ``x,y,milliseconds`` between START and BREAK."""
    strokes: list[list[list[float]]] = [[]]
    try:
        for line in content.decode("ascii").split():
            if line == "BREAK":
                strokes.append([])
            elif line != "START":
                strokes[-1].append([float(number) for number in line.split(",")[:2]])
        return [np.array(stroke, np.float32).reshape(-1, 2) for stroke in strokes if stroke]
    except ValueError as error:
        raise DatasetUnavailable(f"{name} is not a drawing of Omniglot: {error}; use the original archive") from error
