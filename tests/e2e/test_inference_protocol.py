"""NVIDIA's client of the Open Inference Protocol against a real service."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from service.client import Client
from tests.e2e.conftest import COARSE, FINE, ROOT

NAMES = ("label", "confidence", "scores", "verdict", "classes")


@pytest.fixture(scope="module")
def server(url: str, line: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(url.removeprefix("http://")) as server:
        yield server


def files_input(*files: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    return tensor


def texts(result: triton.InferResult, name: str) -> list[str]:
    return [each.decode() if isinstance(each, bytes) else each for each in result.as_numpy(name)]


def test_the_server_and_its_models_are_ready(server: triton.InferenceServerClient, line: str) -> None:
    assert server.is_server_live()
    assert server.is_server_ready()
    assert server.is_model_ready(line)
    assert server.is_model_ready(line, "1")
    assert not server.is_model_ready("nothing")
    assert server.get_server_metadata()["name"] == "anole"
    assert server.get_model_metadata(line)["versions"] == ["2"]


def test_files_are_predicted_as_by_predict(server: triton.InferenceServerClient, url: str, line: str) -> None:
    result = server.infer(line, [files_input(FINE[0], COARSE[0])], request_id="part-7")
    with Client(url) as anole:
        expected = anole.predict(line, [FINE[0], COARSE[0]])
    classes = texts(result, "classes")
    assert result.get_response()["id"] == "part-7"
    assert texts(result, "label") == [each.label for each in expected.predictions] == ["fine", "coarse"]
    assert texts(result, "verdict") == [each.verdict for each in expected.predictions]
    rows = [[each.scores[name] for name in classes] for each in expected.predictions]
    assert np.array_equal(result.as_numpy("scores"), np.array(rows, np.float32))


def test_pixels_are_predicted_as_their_file(server: triton.InferenceServerClient, line: str) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(FINE[1])).convert("RGB"))
    tensor = triton.InferInput("image", [1, *pixels.shape], "UINT8")
    tensor.set_data_from_numpy(pixels[None])
    from_pixels, from_file = server.infer(line, [tensor]), server.infer(line, [files_input(FINE[1])])
    for name in NAMES:
        assert np.array_equal(from_pixels.as_numpy(name), from_file.as_numpy(name))


def test_pixels_and_outputs_may_be_numbers_in_json(server: triton.InferenceServerClient, line: str) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(COARSE[1])).convert("RGB"))
    tensor = triton.InferInput("image", [1, *pixels.shape], "UINT8")
    tensor.set_data_from_numpy(pixels[None], binary_data=False)
    outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in NAMES]
    result = server.infer(line, [tensor], model_version="1", outputs=outputs)
    assert texts(result, "label") == ["coarse"]
    assert result.get_response()["model_version"] == "1"


def test_errors_are_read_by_the_client(server: triton.InferenceServerClient, line: str) -> None:
    with pytest.raises(triton.InferenceServerException, match="has no version 9") as caught:
        server.infer(line, [files_input(FINE[0])], model_version="9")
    assert caught.value.status() == "404"
    with pytest.raises(triton.InferenceServerException, match=r"image\[0\]"):
        server.infer(line, [files_input(b"not an image")])


def test_the_examples_of_the_page_run(url: str, line: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "inference-protocol.md").read_text(encoding="utf-8")
    picture = tmp_path / "part.png"
    picture.write_bytes(FINE[0])
    python, shell = re.findall(r"```python\n(.+?)```", page, re.DOTALL), re.findall(r"```sh\n(.+?)```", page, re.DOTALL)
    for program, example, answer in ((sys.executable, python[0], "fine "), ("bash", shell[1], '"data":["fine"]')):
        for old, new in (
            ("127.0.0.1:8000", url.removeprefix("http://")),
            ("data/demo/queries/scratch/scratch-11.png", str(picture)),
            ('"demo"', f'"{line}"'),
            ("/demo/", f"/{line}/"),
            (', headers={"X-API-Key": "KEY"}', ""),
        ):
            example = example.replace(old, new)
        ran = subprocess.run([program, "-c", example], capture_output=True, text=True, timeout=60, check=True)
        assert answer in ran.stdout
