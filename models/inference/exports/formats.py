"""The formats of exported files: writes them, opens them, and tells them apart."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from models.errors import ExportUnsupported
from models.inference.exports import openvino_zip
from models.inference.exports.file import (
    Description,
    ExportedVersion,
    Pixels,
    Prediction,
    describe_onnx,
    read_onnx_description,
)

Format = Literal["onnx", "openvino"]


class OpenedExport(Protocol):
    """An exported file that predicts."""

    description: Description
    runtime: str

    def predict(self, image: Pixels) -> Prediction:
        """Predict one image, uint8 (height, width, 3)."""


def require(file_format: Format) -> None:
    """Raises ExportUnsupported if the packages that write a format are not installed."""
    from models.inference.export import can_export

    if not can_export():
        raise ExportUnsupported(
            "exporting needs the packages of the extra `export`, which are not installed where the service runs; "
            "install them there with `pip install 'anole[export]'`, or `pip install onnx onnxscript`, and restart it"
        )
    if file_format == "openvino":
        openvino_zip.require_openvino()


def write_file(file_format: Format, graph: Any, description: Description) -> bytes:
    """Return a ModelProto as a file with the description in it."""
    if file_format == "openvino":
        return openvino_zip.write_openvino(graph, description)
    return describe_onnx(graph, description)


def open_file(content: bytes, threads: int = 1) -> OpenedExport:
    """Open a file of any format, to predict with it on the CPU.

    Raises:
        ExportInvalid: it is not an exported version.
        ExportUnsupported: what runs it is not installed.
    """
    opened = openvino_zip.OpenvinoVersion if _is_zip(content) else ExportedVersion
    return opened(content, threads)


def read_description(content: bytes) -> Description:
    """Read what a file of any format says about itself, without running it.

    Raises:
        ExportInvalid: it is not an exported version.
    """
    return openvino_zip.read_zip(content) if _is_zip(content) else read_onnx_description(content)


def _is_zip(content: bytes) -> bool:
    return content.startswith(openvino_zip.ZIP)
