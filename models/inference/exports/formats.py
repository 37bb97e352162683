"""The formats of exported files: writes them, opens them, and tells them apart."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from models.errors import ExportUnsupported
from models.inference.exports import openvino_zip, torch_file, zips
from models.inference.exports.file import (
    Description,
    ExportedVersion,
    Pixels,
    Prediction,
    describe_onnx,
    read_onnx_description,
)

Format = Literal["onnx", "openvino", "torch"]


class OpenedExport(Protocol):
    """An exported file that predicts."""

    description: Description
    runtime: str

    def predict(self, image: Pixels) -> Prediction:
        """Predict one image, uint8 (height, width, 3)."""


def require(file_format: Format) -> None:
    """Raises ExportUnsupported if the packages that write a format are not installed."""
    from models.inference.export import can_export

    if file_format != "torch" and not can_export():
        raise ExportUnsupported(
            "exporting needs the packages of the extra `export`, which are not installed where the service runs; "
            "install them there with `pip install onnx onnxscript`, and restart it"
        )
    if file_format == "openvino":
        openvino_zip.require_openvino()


def write_file(file_format: Format, built: Any, description: Description) -> bytes:
    """Return a file with the description in it.

    Args:
        file_format: its format.
        built: the ModelProto of `build_graph`; for "torch", the program of `export_apart`.
        description: what the file says about itself.
    """
    if file_format == "torch":
        return torch_file.describe_program(built, description)
    write = openvino_zip.write_openvino if file_format == "openvino" else describe_onnx
    return write(built, description)


def open_file(content: bytes) -> OpenedExport:
    """Open a file of any format, to predict with it on the CPU.

    Raises:
        ExportInvalid: it is not an exported version.
        ExportUnsupported: what runs it is not installed.
    """
    if not content.startswith(zips.ZIP):
        return ExportedVersion(content)
    of_torch = zips.description_name(content).endswith(torch_file.EXTRA)
    opened = torch_file.TorchVersion if of_torch else openvino_zip.OpenvinoVersion
    return opened(content, zips.read_description(content))


def read_description(content: bytes) -> Description:
    """Read what a file of any format says about itself, without running it.

    Raises:
        ExportInvalid: it is not an exported version.
    """
    return zips.read_description(content) if content.startswith(zips.ZIP) else read_onnx_description(content)
