"""NVIDIA's gRPC client of the Open Inference Protocol against a real service with two workers that requires keys."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.grpc import service_pb2 as published

from service.client import AdaptOptions, Client
from service.http.grpc import open_inference_pb2 as ours
from service.http.grpc.messages import MAX_STRUCTURE_BYTES
from tests.e2e.conftest import COARSE, FINE, ROOT, Process, create_key, labelled, serving
from tests.free_port import free_port

NAMES = ("label", "confidence", "scores", "verdict", "classes")
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Line:
    """A running service with a client `line` that has two versions, its gRPC address, and keys for it."""

    running: Process
    address: str
    key: str
    stranger_key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def served_line(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    data = tmp_path_factory.mktemp("grpc")
    environment = {"ANOLE_DEMO": "false", "ANOLE_PREDICT_BODY_BYTES": "200000", "ANOLE_FILE_BYTES": "100000"}
    port = free_port()
    key, stranger_key = create_key(data, "predict", "adapt"), create_key(data, "adapt")
    with serving(data, checkpoint, "--grpc-port", str(port), "--workers", "2", **environment) as running:
        with Client(running.url, key=key) as anole:
            anole.adapt("line", labelled(fine=FINE, coarse=COARSE), AdaptOptions(publish="always"))
            anole.adapt("line", labelled(fine=FINE, coarse=COARSE), AdaptOptions(publish="always"))
        assert any(f"grpc         127.0.0.1:{port}" in line for line in running.printed)
        yield Line(running, f"127.0.0.1:{port}", key, stranger_key)


@pytest.fixture
def server(served_line: Line) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served_line.address) as server:
        yield server


def files_input(*files: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    return tensor


def pixels_input(pixels: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput("image", [1, *pixels.shape], "UINT8")
    tensor.set_data_from_numpy(pixels[None])
    return tensor


def texts(result: triton.InferResult, name: str) -> list[str]:
    return [each.decode() for each in result.as_numpy(name)]


def pixels_of(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def test_the_messages_are_those_of_the_published_interface() -> None:
    for name, message in ours.DESCRIPTOR.message_types_by_name.items():
        theirs = getattr(published, name).DESCRIPTOR
        for kind, reference in [(message, theirs), *zip(message.nested_types, theirs.nested_types, strict=True)]:
            fields = {each.name: (each.number, each.type, each.is_repeated) for each in kind.fields}
            other = {each.name: (each.number, each.type, each.is_repeated) for each in reference.fields}
            assert fields.items() <= other.items(), kind.full_name


def test_the_server_and_its_models_are_ready(server: triton.InferenceServerClient, served_line: Line) -> None:
    assert server.is_server_live()  # without a key
    assert server.is_server_ready()
    assert server.get_server_metadata().name == "anole"
    headers = served_line.headers
    assert server.is_model_ready("line", headers=headers)
    assert server.is_model_ready("line", "1", headers=headers)
    assert not server.is_model_ready("line", "9", headers=headers)
    assert not server.is_model_ready("nothing", headers=headers)
    described = server.get_model_metadata("line", headers=headers)
    assert (described.versions, described.inputs[0].shape, described.outputs[2].shape) == (["2"], [-1], [-1, 2])


def test_files_are_predicted_as_by_predict(server: triton.InferenceServerClient, served_line: Line) -> None:
    result = server.infer("line", [files_input(FINE[0], COARSE[0])], request_id="part-7", headers=served_line.headers)
    with Client(served_line.running.url, key=served_line.key) as anole:
        expected = anole.predict("line", [FINE[0], COARSE[0]])
    classes = texts(result, "classes")
    response = result.get_response()
    assert (response.id, response.model_version) == ("part-7", "2")
    assert response.parameters["weights_digest"].string_param == expected.weights_digest
    assert texts(result, "label") == [each.label for each in expected.predictions] == ["fine", "coarse"]
    rows = [[each.scores[name] for name in classes] for each in expected.predictions]
    assert np.array_equal(result.as_numpy("scores"), np.array(rows, np.float32))


def test_pixels_are_predicted_as_their_file_by_the_given_version(
    server: triton.InferenceServerClient, served_line: Line
) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in NAMES]
    answers = [
        server.infer("line", [each], model_version="1", outputs=wanted, headers=served_line.headers)
        for each in (pixels_input(pixels_of(FINE[1])), files_input(FINE[1]))
    ]
    assert [each.get_response().model_version for each in answers] == ["1", "1"]
    for name in NAMES:
        assert np.array_equal(answers[0].as_numpy(name), answers[1].as_numpy(name))


def infer(server: triton.InferenceServerClient, line: Line, client: str = "line", **options: Any) -> str:
    with pytest.raises(triton.InferenceServerException) as caught:
        server.infer(client, **{"inputs": [files_input(FINE[0])], "headers": line.headers, **options})
    return f"{caught.value.status()} {caught.value.message()}"


def test_errors_have_a_status_and_the_message_of_the_problem(
    server: triton.InferenceServerClient, served_line: Line
) -> None:
    def failed(**options: Any) -> str:
        return infer(server, served_line, **options)

    assert "UNAUTHENTICATED" in failed(headers={"authorization": "Bearer wrong"})
    assert "UNAUTHENTICATED this service needs a key" in failed(headers={}).replace("StatusCode.", "")
    assert "PERMISSION_DENIED" in failed(headers={"x-api-key": served_line.stranger_key})
    assert "NOT_FOUND" in failed(client="other")
    assert "has no version 9" in failed(model_version="9")
    assert "allowed: a number from 1" in failed(model_version="live")
    assert "INVALID_ARGUMENT" in failed(inputs=[files_input(b"not an image")])
    assert "height, width, 3" in failed(inputs=[pixels_input(np.zeros((4, 4, 1), np.uint8))])
    assert "allowed: label" in failed(outputs=[triton.InferRequestedOutput("logits")])
    assert "RESOURCE_EXHAUSTED" in failed(inputs=[pixels_input(np.zeros((300, 300, 3), np.uint8))])
    assert "ANOLE_FILE_BYTES" in failed(inputs=[files_input(b"a" * 150_000)])
    black = pixels_input(np.zeros((100, 100, 3), np.uint8))
    assert "without compression" in failed(inputs=[black], compression_algorithm="gzip")


def test_a_message_with_many_fields_is_rejected_before_it_is_parsed(served_line: Line) -> None:
    many = b"\x2a\x00" * MAX_STRUCTURE_BYTES  # so many empty inputs
    with grpc.insecure_channel(served_line.address) as channel:
        call = channel.unary_unary(INFER)
        with pytest.raises(grpc.RpcError, match="bytes beside its images"):
            call(many, metadata=list(served_line.headers.items()), timeout=60)


def test_contents_may_be_in_the_tensors(served_line: Line) -> None:
    pixels = pixels_of(COARSE[1])
    as_numbers = published.InferTensorContents(uint_contents=pixels.ravel().tolist())
    as_file = published.InferTensorContents(bytes_contents=[COARSE[1]])
    with grpc.insecure_channel(served_line.address) as channel:
        call = channel.unary_unary(
            INFER, published.ModelInferRequest.SerializeToString, published.ModelInferResponse.FromString
        )
        for datatype, shape, contents in (("UINT8", [1, *pixels.shape], as_numbers), ("BYTES", [1], as_file)):
            request = published.ModelInferRequest(model_name="line")
            request.inputs.add(name="image", datatype=datatype, shape=shape, contents=contents)
            response = call(request, metadata=list(served_line.headers.items()), timeout=60)
            assert response.raw_output_contents[0][4:] == b"coarse"


def test_the_example_of_the_page_runs(served_line: Line, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "inference-protocol.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.+?)```", page, re.DOTALL)[1]
    picture = tmp_path / "part.png"
    picture.write_bytes(FINE[0])
    for old, new in (
        ("127.0.0.1:8001", served_line.address),
        ("data/demo/queries/scratch/scratch-11.png", str(picture)),
        ('"demo"', '"line"'),
        ("KEY", served_line.key),
    ):
        example = example.replace(old, new)
    ran = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.startswith("fine ")


def test_calls_that_run_when_the_service_stops_get_their_answer(checkpoint: Path, tmp_path: Path) -> None:
    environment = {"ANOLE_DEMO": "false", "ANOLE_DRAIN_S": "1"}
    port = free_port()
    answered: list[str] = []
    failed: list[str] = []
    stopping = threading.Event()

    def call_again_and_again() -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as server:
            while True:
                before = stopping.is_set()
                try:
                    answered.extend(texts(server.infer("line", [files_input(FINE[0])]), "label"))
                except triton.InferenceServerException as error:
                    failed.append(f"{before} {error.status()}")
                    return

    with serving(tmp_path, checkpoint, "--grpc-port", str(port), **environment) as running:
        with Client(running.url) as anole:
            anole.adapt("line", labelled(fine=FINE, coarse=COARSE), AdaptOptions(publish="always"))
        callers = [threading.Thread(target=call_again_and_again) for _ in range(4)]
        for caller in callers:
            caller.start()
        while len(answered) < 8:
            assert not failed
        stopping.set()
        running.stop()
        for caller in callers:
            caller.join(60)
    assert set(answered) == {"fine"}
    # Only calls failed that the service never began: gRPC cancels those that arrive as it closes the port.
    assert len(failed) == 4
    assert set(failed) <= {"True StatusCode.UNAVAILABLE", "True StatusCode.CANCELLED"}
    assert not any("error" in line.lower() for line in running.printed), running.printed
