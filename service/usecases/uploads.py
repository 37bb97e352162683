"""Uploaded files: a name for display and bytes that have not been decoded yet."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.errors import ImageRejected
from service.runtime.decoding.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file: the sender's name for it, and its bytes."""

    name: str
    content: bytes


def decode_upload(upload: Upload, decoder: Decoder) -> Tensor:
    """Decode a file to its canonical image. Errors begin with the file's name.

    Raises:
        ImageRejected, DecoderUnavailable.
    """
    try:
        return decoder.decode(upload.content)
    except ImageRejected as error:
        raise type(error)(f"{upload.name}: {error}") from error
