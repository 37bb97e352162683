"""What a caller may give as labelled images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from zipfile import is_zipfile

from service.client.errors import InvalidInput
from service.client.files import LabelledFile, read_file
from service.client.folders import read_class_folders

Samples = str | Path | Sequence[LabelledFile | tuple[str | Path, str]]
"""A folder with one sub-folder per class, a zip of such a folder, or images with their labels."""

_LOG: Final = logging.getLogger("anole.client")


def read_samples(samples: str | Path | Iterable[LabelledFile | tuple[str | Path, str]]) -> list[LabelledFile]:
    """Read a folder with one sub-folder per class, or files given as (path, label).

    What is left out of a folder is logged; see `read_class_folders`.

    Raises:
        InvalidInput: a file cannot be read, the folder has no sub-folder, or a class has no image.
    """
    if isinstance(samples, str | Path):
        found = read_class_folders(samples)
        for each in found.skipped:
            _LOG.warning("skipped %s: %s", each.path, each.reason)
        return list(found.samples)
    return [item if isinstance(item, LabelledFile) else _labelled(*item) for item in samples]


def archive_of(samples: Samples) -> Path | None:
    """Return the path if the samples are a zip file, which is sent as it is. Raises InvalidInput for another file."""
    if not isinstance(samples, str | Path) or not Path(samples).is_file():
        return None
    if not is_zipfile(samples):
        raise InvalidInput(f"{samples} is no zip file; give a folder with one sub-folder per class, or a zip of one")
    return Path(samples)


def _labelled(path: str | Path, label: str) -> LabelledFile:
    return LabelledFile(label, Path(path).name, read_file(Path(path)))
