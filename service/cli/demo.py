"""The client `demo` that an empty store starts with, and its images as files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from models.data.synthetic.demo import LabelledImage
    from service.bootstrap import Services

CLIENT: Final = "demo"
FOLDER: Final = "demo"
_EXAMPLE: Final = "scratch"


def seed(services: Services, data: Path) -> None:
    """Adapt the client `demo` on generated images and write these to `data`, unless the store has a client.

    Raises:
        StoreUnavailable: the client cannot be stored.
    """
    if services.clients.list(limit=1):
        return
    from models.data.synthetic.demo import demo_samples  # these import torch, which a supervisor does without
    from service.runtime.decoder import Upload
    from service.usecases.adapt_command import AdaptCommand

    structlog.get_logger("anole.serve").info("creating_demo", client=CLIENT)
    demo = demo_samples()
    _write(demo.support, data / FOLDER / "support")
    _write(demo.queries, data / FOLDER / "queries")
    uploads = tuple(Upload(image.file_name, image.content) for image in demo.support)
    labels = tuple(image.label for image in demo.support)
    services.adaptation.run(AdaptCommand(CLIENT, uploads, labels, mode="replace", publish="always"))


def example(data: Path) -> Path | None:
    """Return the path of an image to try the client `demo` with, or None if its images are missing."""
    return next(iter(sorted((data / FOLDER / "queries" / _EXAMPLE).glob("*.png"))), None)


def _write(images: Iterable[LabelledImage], folder: Path) -> None:
    for image in images:
        path = folder / image.label / image.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.content)
