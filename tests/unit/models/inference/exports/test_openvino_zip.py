"""Files for OpenVINO: what is not one is rejected, and the first prediction is as right as all others."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.checkpoint import load_checkpoint
from models.errors import ExportInvalid
from models.inference.exports.file import ExportedVersion
from models.inference.exports.formats import open_file, read_description, write_file
from models.inference.exports.version import build_graph
from models.nets import heads
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from tests.unit.models.inference.exports.test_certificate import DESCRIPTION
from tests.unit.models.inference.exports.test_version import QUERIES, THRESHOLD, taught


def packed(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, each in files.items():
            archive.writestr(name, each)
    return content.getvalue()


DESCRIBED = json.dumps(DESCRIPTION.to_texts()).encode()


@pytest.mark.parametrize("margin", [20.0, 1e-6])
def test_the_first_prediction_of_a_version_with_a_second_look_is_right(margin: float) -> None:
    version = taught(LoadedCheckpoint(load_checkpoint("efficientnet-lite0"), torch.device("cpu")))
    version.delta[heads.SECOND_LOOK] = torch.full_like(version.delta[heads.SECOND_LOOK], margin)
    graph = build_graph(version.loaded.exported_net(version.delta, 1.5, THRESHOLD))
    content, onnx = write_file("openvino", graph, DESCRIPTION), write_file("onnx", graph, DESCRIPTION)
    reference = ExportedVersion(onnx)
    for image in QUERIES:
        first, expected = open_file(content).predict(image), reference.predict(image)  # opened anew for each image
        np.testing.assert_allclose(first.scores, expected.scores, atol=1e-3)
        assert first.unknown_score == pytest.approx(expected.unknown_score, abs=1e-3)
        assert (first.label, first.known) == (expected.label, expected.known)


def test_the_description_is_read_from_the_zip() -> None:
    assert read_description(packed({"anole.json": DESCRIBED})) == DESCRIPTION


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (packed({"model.xml": b""}), "has 0 files anole.json"),
        (packed({"anole.json": b"[1"}), "anole.json in the zip is damaged"),
        (packed({"anole.json": b"[1]"}), "not a JSON object of texts"),
        (packed({"anole.json": DESCRIBED}, zipfile.ZIP_DEFLATED), "anole.json in the zip is compressed"),
        (packed({"anole.json": DESCRIBED})[:-30], "the zip is damaged"),
    ],
)
def test_what_is_no_export_is_rejected(content: bytes, said: str) -> None:
    with pytest.raises(ExportInvalid, match=said):
        read_description(content)


def test_a_model_that_openvino_cannot_read_is_rejected() -> None:
    content = packed({"anole.json": DESCRIBED, "model.xml": b"<net/>", "model.bin": b""})
    with pytest.raises(ExportInvalid, match="OpenVINO cannot read the file"):
        open_file(content)


def test_weights_that_were_changed_are_rejected() -> None:
    digest = hashlib.sha256(b"other").hexdigest()
    changed = replace(DESCRIPTION, version={**DESCRIPTION.version, "weights_digest": digest})
    with pytest.raises(ExportInvalid, match="have the digest"):
        read_description(packed({"anole.json": json.dumps(changed.to_texts()).encode()}))
