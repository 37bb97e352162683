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
from models.inference.exports.file import OUTPUTS, Description, Pixels, Prediction

_MODEL, _WEIGHTS, _DESCRIPTION = "model.xml", "model.bin", "anole.json"
_FIXED_TIME: Final = (1980, 1, 1, 0, 0, 0)
ZIP: Final = b"PK\x03\x04"
"""How a zip begins."""


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
        threads: of one run.

    Attributes:
        description: what the file says about itself.
        runtime: name and release of what runs it.

    Raises:
        ExportInvalid: it is not an exported version.
        ExportUnsupported: OpenVINO is not installed.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        require_openvino()
        import openvino

        self.description = read_zip(content)
        xml, weights = _member(content, _MODEL), _member(content, _WEIGHTS)
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(xml, weights), "CPU", _properties(threads))
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
    contents[_DESCRIPTION] = json.dumps(description.to_texts(), indent=1).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _FIXED_TIME), content)
    return packed.getvalue()


def read_zip(content: bytes) -> Description:
    """Read what an exported zip says about itself. Needs no OpenVINO.

    Raises:
        ExportInvalid: it is not an exported version.
    """
    try:
        texts = json.loads(_member(content, _DESCRIPTION))
    except (ValueError, RecursionError) as error:
        raise ExportInvalid(f"{_DESCRIPTION} in the zip is damaged ({error}); export it again") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ExportInvalid(f"{_DESCRIPTION} in the zip is not a JSON object of texts; export it again")
    return Description.from_texts(texts)


def _member(content: bytes, name: str) -> bytes:
    """Return a file of the zip. Only stored files are read, so that none is larger than the zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise ExportInvalid(f"{name} in the zip is compressed; give the zip from `anole export` as it was")
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ExportInvalid(f"the zip is damaged or not an exported version ({error}); export it again") from error


def _properties(threads: int) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
