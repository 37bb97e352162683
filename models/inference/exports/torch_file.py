"""Exported versions as programs of `torch.export`: .pt2 files, which are zips with the description as an extra file."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from models.errors import ExportInvalid
from models.inference.exports.file import OUTPUTS, Description, Pixels, Prediction

EXTRA: Final = "/extra/anole.json"
"""How the name of the description in the zip ends. torch gives it as the extra file `anole.json`."""


class TorchVersion:
    """An exported program, on the CPU. Needs torch alone.

    Args:
        content: the file.
        description: what it says about itself.

    Attributes:
        runtime: name and release of what runs it.

    Raises:
        ExportInvalid: torch cannot read it.
    """

    def __init__(self, content: bytes, description: Description) -> None:
        import torch

        self.description = description
        self._torch = torch
        try:
            with _quiet():
                self._program = torch.export.load(io.BytesIO(content)).module()
        except Exception as error:  # torch raises errors of many classes for a damaged file
            raise ExportInvalid(f"torch cannot read the file ({error}); give a file from `anole export`") from error
        self.runtime = f"torch {torch.__version__}"
        self._batch = bool(description.version.get("batch", False))

    def predict(self, image: Pixels) -> Prediction:
        """Predict one image."""
        pixels = self._torch.from_numpy(image[None] if self._batch else image)
        with self._torch.inference_mode():
            results = self._program(pixels)
        scores, label, unknown_score, known = (results[name][0] if self._batch else results[name] for name in OUTPUTS)
        return Prediction(scores.numpy(), int(label), float(unknown_score), bool(known))


def describe_program(program: bytes, description: Description) -> bytes:
    """Return a .pt2 file with the description as an extra file."""
    content = io.BytesIO(program)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_STORED) as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}{EXTRA}", json.dumps(description.to_texts()))
    return content.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch 2.13 logs about sizes that a program does not use."""
    log = logging.getLogger("torch._export.serde.serialize")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
