"""How often safetensors writes metadata in sorted order.

python -m benchmarks.tensor_metadata_order
"""

from __future__ import annotations

import safetensors
import torch
from safetensors.torch import save

from service.store.tensor_bytes import to_bytes

CALLS = 6
TENSORS = {"head.weight": torch.zeros(4, 4)}
METADATA = {"kind": "delta", "model": "surfaces", "format": "1"}


def main() -> None:
    """Save the same tensors and metadata several times and compare the bytes."""
    library = [save(TENSORS, METADATA) for _ in range(CALLS)]
    ordered = {to_bytes(TENSORS, METADATA) for _ in range(CALLS)}
    print(f"safetensors {safetensors.__version__}, {CALLS} calls, {len(METADATA)} metadata entries")
    print(f"save: {len(set(library))} different results, {sum(one in ordered for one in library)} in sorted order")
    print(f"to_bytes: {len(ordered)} different results")


if __name__ == "__main__":
    main()
