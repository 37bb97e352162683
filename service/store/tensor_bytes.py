"""Tensors as safetensors bytes. The same tensors and metadata always give the same bytes.

A version is named by the digest of its bytes, but the library writes metadata in a random order. So the library encodes
the tensors and `to_bytes` adds the metadata, sorted, to its header. The format is documented at
https://github.com/huggingface/safetensors under "Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError

from service.errors import VersionCorrupt

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT_BYTES: Final = 8
_METADATA: Final = "__metadata__"


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialise named tensors of any shape.

    Raises:
        ValueError: a tensor has the name that the format reserves for metadata.
    """
    if _METADATA in tensors:
        raise ValueError(f"a tensor is named {_METADATA!r}, which the format reserves; choose another name")
    from safetensors.torch import save  # imports torch, which most commands on a store do not need

    encoded = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    if not metadata:
        return encoded
    header, body = _split(encoded)
    ordered = {_METADATA: dict(sorted(metadata.items())), **json.loads(header)}
    text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text + body


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """Return the tensors by name, on the CPU.

    Raises:
        VersionCorrupt: `content` is not in the safetensors format.
    """
    from safetensors.torch import load

    try:
        return load(content)
    except SafetensorError as error:
        raise VersionCorrupt(f"{len(content)} stored bytes are not tensors: {error}; restore a backup") from error


def metadata_of(content: bytes) -> dict[str, str]:
    """Return the metadata of bytes that `from_bytes` accepts; empty if there is none."""
    return dict(json.loads(_split(content)[0]).get(_METADATA, {}))


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Return the JSON header and the tensors' data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]
