"""Versions leave a service as files that predict as it does, and come back as versions."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.errors import ParityTooLow
from models.images.decoding import decode_pixels
from models.inference.exports.certificate import verify
from models.inference.exports.file import ExportedVersion
from models.inference.exports.formats import open_file, read_description
from service import bootstrap
from service.cli.export import verify as verify_file
from service.http.app import create_app
from service.http.schemas.exports import ENDINGS
from service.settings import load_settings
from tests.generated import striped
from tests.in_process import Web, check_described, started

ONNX = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("exports")
    settings = load_settings(data=folder / "data", model="omniglot,surfaces", device="cpu", demo=False)
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        files = [("samples", (f"{period}.png", image)) for period in (4, 13) for image in striped(4, period)]
        form = {"client": "line", "labels": ["fine"] * 4 + ["coarse"] * 4, "publish": "always"}
        assert web("POST", "/adapt", data=form, files=files).status_code == 201
        yield web


@pytest.fixture(scope="module")
def exported(web: Web) -> bytes:
    response = web("GET", "/clients/line/versions/1/export")
    assert response.status_code == 200, response.text
    assert response.headers["content-disposition"] == 'attachment; filename="line-1.onnx"'
    return response.content


@pytest.fixture(scope="module")
def files(web: Web, exported: bytes) -> dict[str, bytes]:
    """The version in all formats."""
    others = {name: web("GET", f"/clients/line/versions/1/export?format={name}") for name in ("openvino", "torch")}
    for name, response in others.items():
        assert response.status_code == 200, response.text
        disposition = f'attachment; filename="line-1{ENDINGS[name]}"'
        assert response.headers["content-disposition"] == disposition
    return {"onnx": exported, **{name: response.content for name, response in others.items()}}


def predicted(web: Web, client: str, image: bytes, version: int = 1) -> dict[str, Any]:
    form = {"client": client, "version": str(version)}
    response = web("POST", "/predict", data=form, files=[("images", ("new.png", image))])
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["predictions"][0]
    return found


def test_an_exported_file_gives_what_the_service_gives(web: Web, exported: bytes) -> None:
    version = ExportedVersion(exported)
    for image in striped(2, 7, seed=5):
        grey = decode_pixels(image).pixels[0]
        found = version.predict(np.repeat(grey[:, :, None], 3, axis=2))
        expected = predicted(web, "line", image)
        scores = dict(zip(version.description.classes, found.scores, strict=True))
        assert scores == pytest.approx(expected["scores"], abs=1e-4)
        assert version.description.classes[found.label] == expected["label"]
        assert found.unknown_score == pytest.approx(expected["unknown_score"], abs=1e-4)
        assert ("known" if found.known else "unknown") == expected["verdict"]


def test_the_certificate_covers_kept_samples_and_generated_images(web: Web, exported: bytes) -> None:
    version, record = ExportedVersion(exported), web("GET", "/clients/line/versions/1").json()
    certificate = version.description.certificate
    assert [each["generated"] for each in certificate["references"]] == [None] * 8 + [0, 1, 2, 3, 4, 5]
    assert (certificate["images"], certificate["equal_labels"], certificate["equal_verdicts"]) == (14, 1.0, 1.0)
    assert certificate["largest_difference"] < 1e-3
    assert certificate["weights_digest"] == record["weights"]["digest"]
    assert certificate["model_digest"] == record["model_digest"]
    assert version.description.version["unknown_threshold"] == record["report"]["unknown_threshold"]
    samples = [np.repeat(decode_pixels(image).pixels[0][:, :, None], 3, axis=2) for image in striped(4, 13)]
    repeated = verify(version, certificate, samples)
    assert (repeated.images, repeated.equal_labels) == (10, 1.0)


@pytest.mark.parametrize("file_format", ["openvino", "torch"])
def test_files_of_other_formats_give_what_the_service_gives_and_can_be_imported(
    web: Web, files: Mapping[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], file_format: str
) -> None:
    file = tmp_path / "line"
    file.write_bytes(files[file_format])
    capsys.readouterr()  # what the service logs
    verify_file(file, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["certificate"]["runtime"].startswith(f"{file_format} 2")
    assert (printed["certificate"]["images"], printed["verified"]["images"]) == (14, 6)
    assert printed["verified"]["largest_difference"] < 1e-3
    image = striped(1, 7, seed=5)[0]
    found = open_file(files[file_format]).predict(np.repeat(decode_pixels(image).pixels[0][:, :, None], 3, axis=2))
    assert found.scores == pytest.approx(list(predicted(web, "line", image)["scores"].values()), abs=1e-3)
    imported = web("POST", f"/clients/from-{file_format}/versions", content=files[file_format], headers=ONNX)
    assert imported.status_code == 201, imported.text
    assert predicted(web, f"from-{file_format}", image) == predicted(web, "line", image)


def test_an_imported_version_is_held_and_predicts_as_the_exported_one(web: Web, exported: bytes) -> None:
    response = web("POST", "/clients/copy/versions", content=exported, headers=ONNX)
    assert response.status_code == 201, response.text
    body = response.json()
    assert (body["version"], body["live"], body["published"], body["classes"]) == (1, None, False, ["fine", "coarse"])
    assert [each["code"] for each in body["report"]["gate"]["details"]][:2] == ["publish_never", "imported"]
    assert body["weights"]["digest"] == read_description(exported).version["weights_digest"]
    image = striped(1, 8, seed=7)[0]
    assert predicted(web, "copy", image) == predicted(web, "line", image)
    extension = {"client": "copy", "labels": ["third"]}
    refused = web("POST", "/adapt", data=extension, files=[("samples", ("a.png", image))])
    assert (refused.status_code, refused.json()["code"]) == (409, "samples_not_kept")


def test_an_imported_version_goes_live_if_the_request_says_so(web: Web, exported: bytes) -> None:
    held = web("POST", "/clients/live/versions?publish=auto", content=exported, headers=ONNX).json()
    assert (held["live"], held["report"]["gate"]["decision"]) == (None, "hold")
    published = web("POST", "/clients/live/versions?publish=always", content=exported, headers=ONNX).json()
    assert (published["version"], published["live"]) == (2, 2)
    again = web("GET", "/clients/live/versions/2/export")
    assert read_description(again.content).certificate["images"] == 6  # generated images alone: it has no samples


def test_a_file_is_verified_without_a_service(
    exported: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, image = tmp_path / "line.onnx", tmp_path / "sample.png"
    file.write_bytes(exported)
    image.write_bytes(striped(1, 4)[0])  # a sample of the version
    verify_file(file, [image], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["verified"]["images"] == 7
    assert printed["verified"]["largest_difference"] < 1e-3
    assert [each["label"] for each in printed["predictions"]] == ["fine"]
    verify_file(file, [image])
    shown = capsys.readouterr().out
    assert "equal labels 100.0 %" in shown
    assert [line.split()[1] for line in shown.splitlines() if "sample.png" in line] == ["fine"]


def test_a_file_that_no_longer_agrees_fails_the_verification(exported: bytes, tmp_path: Path) -> None:
    graph = onnx.load_from_string(exported)
    (bias,) = [tensor for tensor in graph.graph.initializer if tensor.name == "net.head.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[::-1].copy(), bias.name))
    file = tmp_path / "changed.onnx"
    file.write_bytes(graph.SerializeToString())
    with pytest.raises(ParityTooLow):
        verify_file(file)


@pytest.mark.parametrize(
    ("number", "file_format", "file"),
    [(0, "onnx", "line.onnx"), (1, "openvino", "model.xml"), (2, "torch", "line.pt2")],
)
def test_the_examples_of_the_documentation_run(
    files: Mapping[str, bytes], tmp_path: Path, number: int, file_format: str, file: str
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[number]
    if file_format == "openvino":
        zipfile.ZipFile(io.BytesIO(files[file_format])).extractall(tmp_path)
    else:
        (tmp_path / file).write_bytes(files[file_format])
    (tmp_path / "new.png").write_bytes(striped(1, 4, seed=3)[0])
    command = [sys.executable, "-c", example, file, "new.png"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    name, label, score, verdict = ran.stdout.split()
    assert (name, label, verdict) == ("new.png", "fine", "known")
    assert float(score) > 0.5


def problem(response: Any) -> tuple[int, str]:
    check_described(response)
    return response.status_code, response.json()["code"]


def test_a_file_of_another_model_is_rejected(web: Web, exported: bytes) -> None:
    assert web("PUT", "/clients/other/settings", json={"model": "surfaces"}).status_code == 200
    response = web("POST", "/clients/other/versions", content=exported, headers=ONNX)
    assert problem(response) == (409, "model_mismatch")
    assert "'omniglot'" in response.json()["detail"]
    assert web("GET", "/clients/other/versions").json()["versions"] == []


@pytest.mark.parametrize("change", ["weights", "threshold", "classes", "other", "empty"])
def test_files_that_do_not_describe_a_version_are_rejected(web: Web, exported: bytes, change: str) -> None:
    graph = onnx.load_from_string(exported)
    texts = {entry.key: entry for entry in graph.metadata_props}
    if change == "weights":
        texts["anole.weights"].value = texts["anole.weights"].value[:-8]
    elif change == "threshold":
        texts["anole.version"].value = texts["anole.version"].value.replace('"temperature": ', '"temperature": -')
    elif change == "classes":
        texts["anole.version"].value = texts["anole.version"].value.replace('["fine", ', '["fine", "more", ')
    content = {"other": b"not a file", "empty": b""}.get(change, graph.SerializeToString())
    response = web("POST", "/clients/damaged/versions", content=content, headers=ONNX)
    assert problem(response) == (422, "export_invalid")
    assert problem(web("GET", "/clients/damaged")) == (404, "unknown_client")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/clients/line/versions/1/export?precision=int8", (422, "export_unsupported")),
        ("/clients/line/versions/1/export?format=torch&precision=int8", (422, "export_unsupported")),
        ("/clients/line/versions/1/export?format=openvino&precision=int8", (422, "export_unsupported")),
        ("/clients/line/versions/1/export?format=tflite", (422, "parameter_invalid")),
        ("/clients/line/versions/1/export?name=x", (422, "field_unknown")),
        ("/clients/line/versions/9/export", (404, "unknown_version")),
        ("/clients/missing/versions/1/export", (404, "unknown_client")),
    ],
)
def test_exports_that_are_not_possible_are_problems(web: Web, path: str, expected: tuple[int, str]) -> None:
    assert problem(web("GET", path)) == expected


def test_without_the_packages_the_problem_says_what_to_install(
    web: Web, exported: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else installed(name))
    refused = [
        web("GET", "/clients/line/versions/1/export"),
        web("POST", "/clients/copy/versions", content=exported, headers=ONNX),
    ]
    for response in refused:
        assert problem(response) == (422, "export_unsupported")
        assert "pip install onnx" in response.json()["detail"]
