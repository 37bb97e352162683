"""`anole import-backbone`: make a checkpoint of any pretrained module."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from models.atomic_files import write_atomically
from models.backbone_import import import_backbone as make_checkpoint
from models.checkpoint import SHIPPED_ALIASES, Checkpoint, save_checkpoint, shipped_names
from models.errors import CheckpointInvalid
from models.images.preprocessing import Contrast, ImageConfig
from models.inference.export import can_export, checked_backbone_graph
from models.nets import BackboneNet
from service.cli.console import AsJson, output, plain, print_json
from service.settings import disable_onnxruntime_telemetry

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NO_EXPORTER: Final = "to get one: pip install -e '.[export]', and import again"


def import_backbone(
    factory: Annotated[
        str, typer.Argument(metavar="MODULE:CALLABLE", help="Builds the module when it is called without arguments.")
    ],
    weights: Annotated[Path, typer.Option(help="Safetensors file with the state dict of the module.")],
    name: Annotated[str, typer.Option(help="Name of the checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder to write NAME.safetensors and NAME.onnx to.")] = Path(),
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Submodule whose output is pooled. Repeat it.", show_default="found in one pass"),
    ] = None,
    side: Annotated[int, typer.Option(help="Side of the images in pixels, 16 to 256. Smaller is faster.")] = 224,
    contrast: Annotated[
        Contrast,
        typer.Option(
            help="How pixel values are scaled: torchvision by ImageNet's mean and deviation; imagenet to [-1, 1]; none "
            "to [0, 1]; local and regional by their neighbourhood."
        ),
    ] = "torchvision",
    as_json: AsJson = False,
) -> None:
    """Make a checkpoint of a pretrained backbone of your own, frozen.

    Imports MODULE, calls CALLABLE and loads the weights. Run it only with code that you trust.
    """
    path = _path(out, name)
    disable_onnxruntime_telemetry()
    checkpoint = make_checkpoint(name, factory, weights, ImageConfig(3, side, contrast), stage or ())
    net = checkpoint.build_net()
    if not isinstance(net, BackboneNet):
        raise TypeError(f"a backbone checkpoint built {type(net).__name__}")
    save_checkpoint(checkpoint, path)
    graph = _write_graph(net, path.with_suffix(".onnx"))
    serve = shlex.join(["anole", "serve", "--model", str(path), "--allow-factory", factory])
    record = {
        "checkpoint": str(path),
        "digest": checkpoint.digest,
        "stages": checkpoint.net_config.stages,
        "features": net.feature_count,
        "image": checkpoint.net_config.image.to_json(),
        "bytes": path.stat().st_size,
        **graph,
        "next": serve,
    }
    print_json(record) if as_json else _print(checkpoint, record)


def _path(folder: Path, name: str) -> Path:
    """The checkpoint to write; its name must be new."""
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is no valid name; allowed: up to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
        )
    if name in {*shipped_names(), *SHIPPED_ALIASES}:
        raise typer.BadParameter(f"{name!r} is the name of a shipped checkpoint; pass another --name")
    path = folder / f"{name}.safetensors"
    if path.exists():
        raise typer.BadParameter(f"{path} exists; pass another --name or --out, or remove it")
    return path


def _write_graph(net: BackboneNet, path: Path) -> dict[str, str | None]:
    """Write the ONNX graph where that is possible. Without it, torch computes the features."""
    if not can_export():
        return {"onnx": None, "onnx_reason": _NO_EXPORTER}
    try:
        write_atomically(path, checked_backbone_graph(net))
    except CheckpointInvalid as error:
        return {"onnx": None, "onnx_reason": str(error)}
    return {"onnx": str(path)}


def _print(checkpoint: Checkpoint, record: Mapping[str, Any]) -> None:
    image = checkpoint.net_config.image
    shape = "any aspect ratio, area of" if image.fit == "area" else "stretched to"
    size = f"{record['bytes'] / 1e6:.1f} MB"
    onnx = record["onnx"] or f"none, torch serves it ({record['onnx_reason']})"
    lines = [
        f"{record['checkpoint']}: digest {checkpoint.digest[:12]}, {size}",
        f"  stages      {', '.join(checkpoint.net_config.stages)}",
        f"  features    {record['features']}",
        f"  images      {shape} {image.side} x {image.side} pixels, contrast {image.contrast}",
        f"  ONNX graph  {onnx}",
        f"  next        {record['next']}",
    ]
    for line in lines:
        output().print(plain(line))
