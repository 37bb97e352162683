"""Tensors as bytes: readable by the library, and always the same bytes for the same tensors."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from service.errors import VersionCorrupt
from service.store.tensor_bytes import from_bytes, metadata_of, to_bytes

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "head.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
        "count": torch.tensor(3, dtype=torch.int64),
        "image": torch.arange(5, dtype=torch.uint8),
        "nothing": torch.zeros(0, 4),
    }


def test_the_library_reads_the_bytes() -> None:
    read = load(to_bytes(some_tensors(), {"meta_model": "surfaces"}))
    assert read.keys() == some_tensors().keys()
    for name, tensor in some_tensors().items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=5,
    ),
    seed=st.integers(0, 2**31),
)
def test_tensors_are_unchanged_after_a_round_trip(shapes: dict[str, tuple[torch.dtype, list[int]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, (dtype, shape) in shapes.items()}
    read = from_bytes(to_bytes(tensors))
    assert read.keys() == tensors.keys()
    assert all(read[name].dtype == tensors[name].dtype and torch.equal(read[name], tensors[name]) for name in tensors)


def test_neither_the_order_of_names_nor_of_metadata_changes_the_bytes() -> None:
    forwards = to_bytes(some_tensors(), {"a": "1", "b": "2", "c": "3"})
    backwards = to_bytes(dict(reversed(some_tensors().items())), {"c": "3", "b": "2", "a": "1"})
    assert forwards == backwards


def test_the_bytes_are_the_same_in_every_release() -> None:
    """Samples and weights are named by these bytes: other bytes would store the same content under a second name."""
    content = to_bytes(some_tensors(), {"meta_model": "surfaces", "client": "ü"})
    assert hashlib.sha256(content).hexdigest() == "ecd430288ca3d6c94357a5e02e53a0a28a3ce8a4e9fd5bc4db71214d92872893"


def test_views_and_strides_do_not_change_the_bytes() -> None:
    plain = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    strided = torch.arange(24, dtype=torch.float32).reshape(3, 8)[:, ::2] / 2
    assert to_bytes({"w": plain}) == to_bytes({"w": strided})
    assert to_bytes({"w": plain.t()}) == to_bytes({"w": plain.t().contiguous()})


def test_every_tensor_is_aligned_to_its_type() -> None:
    content = to_bytes(some_tensors(), {"odd": "x" * 5})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    for name, tensor in some_tensors().items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_metadata_is_read_back() -> None:
    assert metadata_of(to_bytes(some_tensors(), {"b": "2", "a": "ü"})) == {"a": "ü", "b": "2"}
    assert metadata_of(to_bytes(some_tensors())) == {}


def test_a_tensor_cannot_have_the_name_of_the_metadata() -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        to_bytes({"__metadata__": torch.zeros(1)})


@pytest.mark.parametrize("content", [b"", b"not tensors at all", to_bytes(some_tensors())[:-1]])
def test_content_in_another_format_is_rejected(content: bytes) -> None:
    with pytest.raises(VersionCorrupt, match="restore a backup"):
        from_bytes(content)
