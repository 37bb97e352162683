"""Exported ONNX files: reads them, runs them, and adds what they say about themselves. Needs no torch."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import ExportInvalid

FORMAT: Final = "anole-export-1"

IMAGE: Final = "image"
SCORES, LABEL, UNKNOWN_SCORE, KNOWN = OUTPUTS = ("scores", "label", "unknown_score", "known")

_FORMAT, _VERSION, _CERTIFICATE, _WEIGHTS = "anole.format", "anole.version", "anole.certificate", "anole.weights"
_KEYS: Final = (_FORMAT, _VERSION, _CERTIFICATE, _WEIGHTS)

Pixels = NDArray[np.uint8]
"""An image: uint8 (height, width, 3), RGB."""


class Prediction(NamedTuple):
    """What an exported version gives for one image.

    Attributes:
        scores: probability of each class, float32 (n_way,).
        label: index of the most probable class.
        unknown_score: how little the image looks like any of the classes, 0 to 1; NaN if the version does not tell.
        known: whether the verdict is "known".
    """

    scores: NDArray[np.float32]
    label: int
    unknown_score: float
    known: bool


@dataclass(frozen=True)
class Description:
    """What an exported file says about itself.

    Attributes:
        version: JSON data: client, version, classes, digests, threshold, licence and so on.
        certificate: JSON data, see `models.inference.exports.certificate`.
        weights: the version's weights as the store has them, in safetensors format; their SHA-256 is ``weights_digest``
            of `version`.
    """

    version: Mapping[str, Any]
    certificate: Mapping[str, Any]
    weights: bytes

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the scores."""
        return list(self.version["classes"])

    def to_texts(self) -> dict[str, str]:
        """The description as the metadata of a file has it."""
        return {
            _FORMAT: FORMAT,
            _VERSION: json.dumps(self.version, sort_keys=True),
            _CERTIFICATE: json.dumps(self.certificate, sort_keys=True),
            _WEIGHTS: base64.b64encode(self.weights).decode("ascii"),
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Description:
        """Read the metadata of a file.

        Raises:
            ExportInvalid: they are not those of an exported version, or the weights do not match their digest.
        """
        if texts.get(_FORMAT) != FORMAT:
            raise ExportInvalid(
                f"the file is not an exported version: its metadata have the format {texts.get(_FORMAT)!r}, expected "
                f"{FORMAT!r}; give a file from `anole export`"
            )
        try:
            version, certificate = json.loads(texts[_VERSION]), json.loads(texts[_CERTIFICATE])
            weights = base64.b64decode(texts[_WEIGHTS], validate=True)
            described = cls(version, certificate, weights)
            digest, found = version["weights_digest"], hashlib.sha256(weights).hexdigest()
            if not all(isinstance(name, str) for name in described.classes):
                raise TypeError("a class has no name")
        except (KeyError, TypeError, ValueError, binascii.Error, RecursionError) as error:
            raise ExportInvalid(f"the metadata of the exported file are damaged ({error}); export it again") from error
        if digest != found:
            raise ExportInvalid(
                f"the weights in the exported file have the digest {found[:12]}…, but it names {str(digest)[:12]}…; "
                "export it again"
            )
        return described


class ExportedVersion:
    """An exported ONNX file in onnxruntime, on the CPU.

    Args:
        content: the file.
        threads: of one run.

    Attributes:
        description: what the file says about itself.
        runtime: name and release of what runs it.

    Raises:
        ExportInvalid: it is not an exported version.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        # Imported here, so that a service can switch off onnxruntime's telemetry before the import.
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
            raise ExportInvalid(
                f"onnxruntime cannot read the file ({error}); give a file from `anole export`"
            ) from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.description = Description.from_texts(self._session.get_modelmeta().custom_metadata_map)
        self._batch = len(self._session.get_inputs()[0].shape) == 4

    def predict(self, image: Pixels) -> Prediction:
        """Predict one image."""
        pixels = image[None] if self._batch else image
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        scores, label, unknown_score, known = (output[0] for output in outputs) if self._batch else outputs
        return Prediction(scores, int(label), float(unknown_score), bool(known))


def describe_onnx(graph: Any, description: Description) -> bytes:
    """Return a ModelProto as a file, with the description in its metadata."""
    described = type(graph)()
    described.CopyFrom(graph)
    for key, text in description.to_texts().items():
        described.metadata_props.add(key=key, value=text)
    content: bytes = described.SerializeToString()
    return content


def read_onnx_description(content: bytes) -> Description:
    """Read what an exported ONNX file says about itself, without running it. Needs the package onnx.

    Raises:
        ExportInvalid: it is not an exported version.
    """
    import onnx

    try:
        graph = onnx.load_from_string(content)
    except Exception as error:  # protobuf raises a class of its own, which onnx does not export
        raise ExportInvalid("the file is neither in ONNX format nor a zip; give a file from `anole export`") from error
    return Description.from_texts({entry.key: entry.value for entry in graph.metadata_props if entry.key in _KEYS})
