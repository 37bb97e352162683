"""A program of torch predicts what the service predicts, for images of any size."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from models.checkpoint import load_checkpoint
from models.errors import ExportInvalid, ExportUnsupported
from models.inference.exports.certificate import SIZES, generated_image
from models.inference.exports.formats import open_file, read_description, write_file
from models.inference.exports.torch_program import export_apart, export_program
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from tests.unit.models.inference.exports.test_certificate import DESCRIPTION
from tests.unit.models.inference.exports.test_version import AGREEMENT, QUERIES, THRESHOLD, Taught, taught

IMAGES = [*QUERIES[2:], *(generated_image(number) for number in range(len(SIZES)))]


def assert_agrees(version: Taught, program: bytes) -> None:
    opened, expected = open_file(write_file("torch", program, DESCRIPTION)), version.predictions(IMAGES)
    assert expected.in_distribution is not None
    for index, image in enumerate(IMAGES):
        found = opened.predict(image)
        np.testing.assert_allclose(found.scores, expected.probabilities[index].numpy(), atol=AGREEMENT)
        assert found.label == int(expected.probabilities[index].argmax())
        assert found.unknown_score == pytest.approx(1 - float(expected.in_distribution[index]), abs=AGREEMENT)
        assert found.known == (found.unknown_score <= THRESHOLD)


def test_a_version_of_a_backbone_with_local_features_and_a_second_look_agrees() -> None:
    version = taught(LoadedCheckpoint(load_checkpoint("efficientnet-lite0"), torch.device("cpu")), patch_memory=True)
    assert_agrees(version, export_program(version.loaded.exported_net(version.delta, 1.5, THRESHOLD)))


def test_a_version_with_weights_of_its_own_agrees_and_describes_itself() -> None:
    version = taught(LoadedCheckpoint(load_checkpoint("omniglot"), torch.device("cpu")))
    program = export_program(version.loaded.exported_net(version.delta, 1.5, THRESHOLD))
    assert_agrees(version, program)
    extras = {"anole.json": ""}
    content = io.BytesIO(write_file("torch", program, DESCRIPTION))
    torch.export.load(content, extra_files=extras)
    assert json.loads(extras["anole.json"]) == DESCRIPTION.to_texts()
    assert read_description(content.getvalue()) == DESCRIPTION


def test_a_net_that_takes_more_than_images_is_rejected() -> None:
    with pytest.raises(ExportUnsupported, match="takes a text with each image"):
        export_apart(load_checkpoint("surface-notes"), {}, None)


def test_an_export_that_nobody_waits_for_ends() -> None:
    def gone() -> None:
        raise InterruptedError("the client has disconnected")

    with pytest.raises(InterruptedError, match="disconnected"):
        export_apart(load_checkpoint("omniglot"), {"head.bias": torch.zeros(2)}, None, check=gone)


def test_why_torch_cannot_export_a_net_is_said() -> None:
    with pytest.raises(ExportUnsupported, match=r"torch cannot export the model 'omniglot' \(\w+Error"):
        export_apart(load_checkpoint("omniglot"), {"head.bias": torch.zeros(2)}, None)


def test_a_program_that_torch_cannot_read_is_rejected() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/extra/anole.json", json.dumps(DESCRIPTION.to_texts()))
    with pytest.raises(ExportInvalid, match="torch cannot read the file"):
        open_file(content.getvalue())
