"""The Open Inference Protocol V2: metadata, health, predictions in JSON and with binary data, and errors."""

from __future__ import annotations

import base64
import json
import struct
import threading
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from models.images.decoding import DecodeLimits, decode_pixels
from service.errors import Overloaded
from service.http.inference_protocol import HEADER_LENGTH, MAX_JSON_VALUES, png
from service.http.middleware.limits import INFER_ROUTES, route_of
from service.http.schemas.inference_protocol import InferRequest
from tests.in_process import PNG, Web

INFER = "/v2/models/line/infer"
FILE = base64.b64encode(PNG).decode()


def image(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": [FILE], **changes}


def sent(web: Web, tensor: dict[str, Any], path: str = INFER, **fields: Any) -> httpx.Response:
    return web("POST", path, json={"inputs": [tensor], **fields})


def binary(web: Web, tensor: dict[str, Any], *sections: bytes, **fields: Any) -> httpx.Response:
    header = json.dumps({"inputs": [tensor], **fields}).encode()
    return web("POST", INFER, content=b"".join((header, *sections)), headers={HEADER_LENGTH: str(len(header))})


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {each["name"]: each["data"] for each in response.json()["outputs"]}


def test_the_server_describes_itself(web: Web) -> None:
    described = web("GET", "/v2").json()
    assert (described["name"], described["extensions"]) == ("anole", ["binary_tensor_data"])
    assert web("GET", "/v2/health/live").json() == {"live": True}
    assert web("GET", "/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1)])
def test_pixels_of_any_shape_are_rows_of_a_png(shape: tuple[int, int]) -> None:
    height, width = shape
    content = png(bytes(3 * height * width), height, width)
    assert struct.unpack(">II", content[16:24]) == (width, height)
    rows = zlib.decompress(content[41 : content.index(b"IEND") - 8])
    assert rows == bytes(height * (1 + 3 * width))


def test_a_server_that_drains_is_not_ready(web: Web) -> None:
    web.services.readiness.drain()
    response = web("GET", "/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False})


def test_a_model_is_described_by_its_live_version_or_the_given_one(two_versions: Web) -> None:
    live = two_versions("GET", "/v2/models/line").json()
    assert (live["name"], live["versions"], live["platform"]) == ("line", ["2"], "anole")
    assert live["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in live["outputs"]}
    assert shapes == {
        "label": ("BYTES", [-1]),
        "confidence": ("FP32", [-1]),
        "scores": ("FP32", [-1, 2]),
        "verdict": ("BYTES", [-1]),
        "classes": ("BYTES", [2]),
    }
    assert two_versions("GET", "/v2/models/line/versions/1").json()["versions"] == ["1"]


def test_models_are_ready_if_they_have_the_version(two_versions: Web) -> None:
    assert two_versions("GET", "/v2/models/line/ready").json() == {"name": "line", "ready": True}
    assert two_versions("GET", "/v2/models/line/versions/1/ready").status_code == 200
    assert two_versions("GET", "/v2/models/line/versions/7/ready").json()["code"] == "unknown_version"
    assert two_versions("GET", "/v2/models/other/ready").json()["code"] == "unknown_client"


def test_a_client_without_a_live_version_is_not_ready(web: Web) -> None:
    web.adapt(publish="never")
    for response in (web("GET", "/v2/models/line/ready"), web("GET", "/v2/models/line"), sent(web, image())):
        assert (response.status_code, response.json()["code"]) == (409, "nothing_live")


def test_files_in_base64_are_predicted(two_versions: Web) -> None:
    response = sent(two_versions, image(shape=[2], data=[FILE, FILE]), id="part-7")
    body = response.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("line", "2", "part-7")
    assert body["parameters"] == {"weights_digest": "b" * 64}
    assert [each["shape"] for each in body["outputs"]] == [[2], [2], [2, 2], [2], [2]]
    assert outputs(response) == {
        "label": ["bad", "bad"],
        "confidence": [0.5, 0.5],
        "scores": [0.5, 0.5, 0.5, 0.5],
        "verdict": ["known", "known"],
        "classes": ["bad", "good"],
    }
    assert two_versions.services.prediction.calls[-1][1][1].name == "image[1]"


def test_the_given_version_predicts(two_versions: Web) -> None:
    response = sent(two_versions, image(), "/v2/models/line/versions/1/infer")
    assert response.json()["model_version"] == "1"


def test_files_and_outputs_can_be_binary(two_versions: Web) -> None:
    section = struct.pack("<I", len(PNG)) + PNG
    tensor = image(data=None, parameters={"binary_data_size": len(section)})
    response = binary(two_versions, tensor, section, parameters={"binary_data_output": True})
    length = int(response.headers[HEADER_LENGTH])
    body, rest = json.loads(response.content[:length]), response.content[length:]
    sizes = [each["parameters"]["binary_data_size"] for each in body["outputs"]]
    assert sizes == [4 + 3, 4, 8, 4 + 5, 4 + 3 + 4 + 4]
    assert rest == (
        struct.pack("<I3s", 3, b"bad")
        + struct.pack("<3f", 0.5, 0.5, 0.5)
        + struct.pack("<I5s", 5, b"known")
        + struct.pack("<I3s", 3, b"bad")
        + struct.pack("<I4s", 4, b"good")
    )
    assert two_versions.services.prediction.calls[-1][1][0].content == PNG


def test_each_output_chooses_its_form(two_versions: Web) -> None:
    wanted = [{"name": "verdict"}, {"name": "confidence", "parameters": {"binary_data": True}}]
    response = sent(two_versions, image(), outputs=wanted)
    length = int(response.headers[HEADER_LENGTH])
    first, second = json.loads(response.content[:length])["outputs"]
    assert (first["name"], first["data"]) == ("verdict", ["known"])
    assert (second["name"], second["parameters"]) == ("confidence", {"binary_data_size": 4})
    assert response.content[length:] == struct.pack("<f", 0.5)


@pytest.mark.parametrize("nested", [True, False])
def test_pixels_in_json_become_the_same_image(two_versions: Web, nested: bool) -> None:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    data = pixels.tolist() if nested else pixels.ravel().tolist()
    sent(two_versions, image(datatype="UINT8", shape=[2, 3, 4, 3], data=data))
    files = [upload.content for upload in two_versions.services.prediction.calls[-1][1]]
    assert files == [png(each.tobytes(), 3, 4) for each in pixels]


def test_binary_pixels_become_the_same_image(two_versions: Web) -> None:
    pixels = bytes(range(36))
    tensor = image(datatype="UINT8", shape=[1, 3, 4, 3], data=None, parameters={"binary_data_size": 36})
    assert binary(two_versions, tensor, pixels).status_code == 200
    assert two_versions.services.prediction.calls[-1][1][0].content == png(pixels, 3, 4)


def test_the_decoder_reads_the_pixels_that_were_packed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    decoded = decode_pixels(png(pixels.tobytes(), 33, 47), DecodeLimits()).pixels
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1))


SECTION = struct.pack("<I", len(PNG)) + PNG


@pytest.mark.parametrize(
    ("tensor", "status", "code", "said"),
    [
        (image(name="input_0"), 422, "field_unknown", "allowed: image"),
        (image(shape=[0], data=[]), 422, "field_missing", "one or more images"),
        (image(shape=[2]), 422, "field_invalid", "1 elements"),
        (image(shape=[1, 2], data=[FILE, FILE]), 422, "field_invalid", "2 elements"),
        (image(shape=[9], data=[FILE] * 9), 400, "too_many_parts", "at most 8 (ANOLE_MAX_FILES)"),
        (image(data=["not base64!"]), 422, "field_invalid", "not Base64"),
        (image(data=[7]), 422, "field_invalid", "not Base64"),
        (image(data=None), 422, "field_invalid", "either in 'data' or as binary data"),
        (image(parameters={"binary_data_size": 5}), 422, "field_invalid", "not in both"),
        (image(data=None, parameters={"binary_data_size": 5}), 422, "field_invalid", "0 bytes follow the JSON"),
        (image(datatype="FP32"), 422, "field_invalid", "allowed: BYTES for image files, UINT8 for pixels"),
        (image(datatype="UINT8", shape=[1, 2, 2, 1], data=[0] * 4), 422, "field_invalid", "height, width, 3"),
        (image(datatype="UINT8", shape=[1, 1, 1, 3], data=[0, 0]), 422, "field_invalid", "2 values"),
        (image(datatype="UINT8", shape=[1, 1, 1, 3], data=[0, 0, 256]), 422, "field_invalid", "0 to 255"),
        (image(datatype="UINT8", shape=[1, 1, 1, 3], data=[0, 0, 0.5]), 422, "field_invalid", "0 to 255"),
        (image(shape=[-1]), 422, "parameter_invalid", "shape"),
        (image(shape=[-1] * 1000), 422, "parameter_invalid", "and 992 more"),
        (image(shape=[1] * 1000), 422, "field_invalid", "of 1000 dimensions and 1 elements"),
        (image(parameters={"shared_memory_region": "a"}), 422, "field_unknown", "send images in the request"),
        (image(data=["QUJD" * 6000]), 413, "file_too_large", "ANOLE_FILE_BYTES"),
        (image(data=["QUJD"]), 415, "image_format_unsupported", "image[0]"),
    ],
)
def test_inputs_that_cannot_be_used_say_why(
    two_versions: Web, tensor: dict[str, Any], status: int, code: str, said: str
) -> None:
    response = sent(two_versions, tensor)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert said in response.json()["error"]


def test_two_inputs_with_images_are_too_many(two_versions: Web) -> None:
    response = two_versions("POST", INFER, json={"inputs": [image(), image()]})
    assert (response.status_code, response.json()["code"]) == (422, "field_invalid")
    assert "the request has 2 inputs 'image'; send one" in response.json()["error"]


def test_binary_data_that_ends_inside_an_element_is_rejected(two_versions: Web) -> None:
    tensor = image(data=None, parameters={"binary_data_size": len(SECTION) - 1})
    response = binary(two_versions, tensor, SECTION[:-1])
    assert "ends inside element 0" in response.json()["error"]


def test_binary_data_is_read_only_as_far_as_its_shape_says(two_versions: Web) -> None:
    content = struct.pack("<I", 0) + struct.pack("<I", 9)  # the second element ends too early, and is not read
    response = binary(two_versions, image(data=None, parameters={"binary_data_size": 8}), content)
    assert (response.status_code, response.json()["code"]) == (422, "field_invalid")
    assert "more elements than its shape says, 1" in response.json()["error"]


def test_requests_are_read_outside_of_the_event_loop(two_versions: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    read = InferRequest.model_validate_json

    def observed(content: bytes) -> InferRequest:
        threads.append(threading.get_ident())
        return read(content)

    monkeypatch.setattr(InferRequest, "model_validate_json", observed)
    assert sent(two_versions, image()).status_code == 200
    assert threads != [two_versions.portal.call(threading.get_ident)]


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"binary_data_output": "false"}},
        {"outputs": [{"name": "label", "parameters": {"binary_data": 0}}]},
    ],
)
def test_a_flag_that_is_neither_true_nor_false_is_rejected(two_versions: Web, fields: dict[str, Any]) -> None:
    response = sent(two_versions, image(), **fields)
    assert (response.status_code, response.json()["code"]) == (422, "field_invalid")
    assert "allowed: true, false" in response.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", ""])
def test_a_wrong_length_of_the_json_is_rejected(two_versions: Web, length: str) -> None:
    response = two_versions("POST", INFER, content=b"{}", headers={HEADER_LENGTH: length})
    assert (response.status_code, response.json()["code"]) == (422, "field_invalid")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": 1}', b"[" * 5000, b"\xff"])
def test_a_body_that_is_no_request_is_rejected(two_versions: Web, body: bytes) -> None:
    response = two_versions("POST", INFER, content=body)
    assert (response.status_code, response.json()["code"]) == (422, "parameter_invalid")


def test_a_compressed_body_is_rejected(two_versions: Web) -> None:
    response = two_versions("POST", INFER, content=b"{}", headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()["code"]) == (415, "media_type_unsupported")


def test_json_with_too_many_values_is_rejected(two_versions: Web) -> None:
    response = two_versions("POST", INFER, content=b"[" + b"0," * MAX_JSON_VALUES + b"0]")
    assert (response.status_code, response.json()["code"]) == (400, "too_many_parts")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"name": "boxes"}, "allowed: label"),
        ({"name": "scores", "parameters": {"classification": 2}}, "classification"),
        ({"name": "scores", "parameters": {"shared_memory_region": "a"}}, "read outputs from the response"),
    ],
)
def test_outputs_that_there_are_not_are_rejected(two_versions: Web, output: dict[str, Any], said: str) -> None:
    response = sent(two_versions, image(), outputs=[output])
    assert (response.status_code, response.json()["code"]) == (422, "field_unknown")
    assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/NO", 422),
        ("GET", "/v2/nothing", 404),
        ("DELETE", "/v2/models/line", 405),
        ("GET", "/v2/models/line/versions/0", 422),
    ],
)
def test_every_error_has_the_member_of_the_protocol(two_versions: Web, method: str, path: str, status: int) -> None:
    response = two_versions(method, path)
    assert response.status_code == status
    assert response.json()["error"] == response.json()["detail"] != ""


def test_errors_of_the_service_have_the_member_of_the_protocol(two_versions: Web) -> None:
    two_versions.services.prediction.raises = Overloaded("try again", 3)
    response = sent(two_versions, image())
    assert (response.status_code, response.json()["error"], response.headers["retry-after"]) == (503, "try again", "3")


def test_other_errors_have_no_such_member(web: Web) -> None:
    assert "error" not in web("GET", "/v2x").json()
    assert "error" not in web("GET", "/clients/line").json()


def test_requests_without_a_key_get_the_error_of_the_protocol(guarded: Web) -> None:
    response = sent(guarded, image())
    assert (response.status_code, response.json()["code"]) == (401, "key_missing")
    assert response.json()["error"]
    assert guarded("GET", "/v2/health/ready").status_code == 200


def test_predictions_are_counted_as_those_of_other_routes(two_versions: Web) -> None:
    sent(two_versions, image(shape=[2], data=[FILE, FILE]))
    metrics = two_versions("GET", "/metrics").text
    assert 'anole_images_total{verdict="known"} 2.0' in metrics
    assert 'anole_requests_total{method="POST",route="/v2/models/{client}/infer",status="200"} 1.0' in metrics


@pytest.mark.parametrize("path", ["/v2/models/line/infer", "/v2/models/a.b-c/versions/12/infer"])
def test_the_limits_of_predictions_apply(path: str) -> None:
    assert route_of({"method": "POST", "path": path}) in INFER_ROUTES


def test_a_body_above_the_limit_of_predictions_is_rejected(web: Web) -> None:
    web.services.clients.kept["line"] = {}
    response = web("POST", INFER, headers={"Content-Length": str(13 * 1024 * 1024)}, content=b"x")
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert "ANOLE_PREDICT_BODY_BYTES" in response.json()["error"]
