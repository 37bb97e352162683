"""Tensors as safetensors bytes, the same bytes for the same tensors everywhere. Knows no file and no digest.

Written here rather than by the library because a version is named by the digest of these bytes: the library writes
the metadata in the random order of a hash map, and may lay tensors out differently in another release. The format is
its own (https://github.com/huggingface/safetensors, "Format"): the length of a JSON header as 8 bytes, little-endian;
the header, padded with blanks to a multiple of 8; the tensors' bytes, little-endian, without gaps. Reading is the
library's, which checks every offset.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from service.errors import VersionCorrupt

_ALIGNMENT_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialise named tensors of any shape, wide types first and then by name, so that each lies aligned.

    Raises:
        ValueError: a dtype that the format is not used with here, a reserved name, or a big-endian machine.
    """
    if sys.byteorder != "little":
        raise ValueError("weights are stored little-endian and this machine is big-endian; use another machine")
    if _METADATA in tensors:
        raise ValueError(f"a tensor cannot be called {_METADATA!r}: the format keeps that name")
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    chunks: list[bytes] = []
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name].detach().cpu().contiguous()
        chunks.append(_raw(tensor))
        begin, end = end, end + len(chunks[-1])
        header[name] = {"dtype": _dtype(name, tensor), "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """The tensors by name, on the CPU.

    Raises:
        VersionCorrupt: not safetensors bytes.
    """
    try:
        return load(content)
    except SafetensorError as error:
        raise VersionCorrupt(f"{len(content)} stored bytes are not tensors: {error}; restore a backup") from error


def metadata_of(content: bytes) -> dict[str, str]:
    """The metadata in safetensors bytes that `from_bytes` accepts; empty if there is none."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return dict(header.get(_METADATA, {}))


def _dtype(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in _DTYPES:
        allowed = ", ".join(str(dtype) for dtype in _DTYPES)
        raise ValueError(f"tensor {name!r} is {tensor.dtype}; allowed are {allowed}")
    return _DTYPES[tensor.dtype]


def _raw(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()  # (bytes,)
