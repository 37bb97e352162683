"""Exported versions in the format of OpenVINO: a zip with `model.xml`, `model.bin` and `anole.json`."""

from __future__ import annotations

import importlib.util
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from models.errors import ExportInvalid, ExportUnsupported
from models.inference.exports import zips
from models.inference.exports.file import OUTPUTS, Description, Pixels, Prediction

_MODEL, _WEIGHTS = "model.xml", "model.bin"
_FIXED_TIME: Final = (1980, 1, 1, 0, 0, 0)
_ONE_THREAD: Final[dict[str, Any]] = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}


def require_openvino() -> None:
    """Raises ExportUnsupported if OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise ExportUnsupported(
            "this format needs the package `openvino`, which is not installed here; install it with "
            "`pip install openvino`, and restart what needs it"
        )


class OpenvinoVersion:
    """An exported zip in OpenVINO, on the CPU.

    Args:
        content: the file.
        description: what it says about itself.

    Attributes:
        runtime: name and release of what runs it.

    Raises:
        ExportInvalid: OpenVINO cannot read it.
        ExportUnsupported: OpenVINO is not installed.
    """

    def __init__(self, content: bytes, description: Description) -> None:
        require_openvino()
        import openvino

        self.description = description
        xml, weights = zips.read_member(content, _MODEL), zips.read_member(content, _WEIGHTS)
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(xml, weights), "CPU", _ONE_THREAD)
        except Exception as error:  # OpenVINO raises RuntimeError and classes of its own
            raise ExportInvalid(f"OpenVINO cannot read the file ({error}); give a file from `anole export`") from error
        self.runtime = f"openvino {openvino.__version__.split('-')[0]}"
        self._batch = self._compiled.input(0).partial_shape.rank.get_length() == 4

    def predict(self, image: Pixels) -> Prediction:
        """Predict one image."""
        results = self._compiled([image[None] if self._batch else image])
        scores, label, unknown_score, known = (
            results[name][0] if self._batch else results[name].copy() for name in OUTPUTS
        )
        return Prediction(scores, int(label), float(unknown_score), bool(known))


def write_openvino(graph: Any, description: Description) -> bytes:
    """Return a ModelProto as a zip for OpenVINO, with the description in it."""
    import openvino

    net = openvino.Core().read_model(graph.SerializeToString())
    with tempfile.TemporaryDirectory(prefix="anole-export-") as folder:
        path = Path(folder) / _MODEL
        openvino.save_model(net, path, compress_to_fp16=False)
        contents = {name: (path.parent / name).read_bytes() for name in (_MODEL, _WEIGHTS)}
    contents[zips.DESCRIPTION] = json.dumps(description.to_texts(), indent=1).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _FIXED_TIME), content)
    return packed.getvalue()
