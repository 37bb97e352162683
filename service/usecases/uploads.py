"""Files as they come: a name to show, and bytes that are nothing until they have been decoded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.errors import ImageRejected
from service.runtime.decoding.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it came: what the sender calls it, and its bytes."""

    name: str
    content: bytes


def decode_upload(upload: Upload, decoder: Decoder) -> Tensor:
    """Decode one file to its canonical image; an `ImageRejected` is raised again with the file's name in front."""
    try:
        return decoder.decode(upload.content)
    except ImageRejected as error:
        raise type(error)(f"{upload.name}: {error}") from error
