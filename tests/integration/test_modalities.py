"""A service whose models take a text, or numbers, beside the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.images.preprocessing import ImageConfig
from models.nets import build
from service import bootstrap
from service.client import AdaptOptions, Client, Image, LabelledFile, ServiceProblem
from service.errors import InvalidRequest
from service.fleet.release import build_release
from service.http.app import create_app
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.settings import load_settings
from service.store.open_store import StoreLocation, open_store
from tests.generated import striped, tiny_checkpoint_in
from tests.in_process import InProcess, Web, started
from tests.integration.test_prediction_independence import command

IMAGE = ImageConfig(channels=1, side=28)
RECIPE = InnerLoopConfig(steps=2, learning_rate=0.05, batch_size=8)
MODELS = {
    "notes": NetConfig("conv4", IMAGE, width=8, second="text"),
    "readings": NetConfig("conv4", IMAGE, width=8, second="vector", second_size=2),
}
SIDES = ("left", "right")
BACKBONE = "efficientnet-lite0"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Start a service with a model for notes, the default, one for readings, one for images alone, and a backbone."""
    folder = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        save_checkpoint(
            Checkpoint(name, config, RECIPE, build(config).start(), training={"data": "none"}),
            folder / f"{name}.safetensors",
        )
    paths = [*(folder / f"{name}.safetensors" for name in MODELS), tiny_checkpoint_in(folder), BACKBONE]
    settings = load_settings(data=folder / "data", model=",".join(map(str, paths)), device="cpu", demo=False)
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web


def adapt(web: Web, client: str, given: dict[str, Any], labels: Sequence[str] = SIDES, seed: int = 0) -> httpx.Response:
    """Teach classes whose pictures look alike, four of each."""
    pictures = [content for index in range(len(labels)) for content in striped(4, 3, 10 * seed + index)]
    files = [("samples", (f"{index}.png", content)) for index, content in enumerate(pictures)]
    named = [label for label in labels for _ in range(4)]
    return web("POST", "/adapt", data={"client": client, "labels": named, "publish": "always", **given}, files=files)


def predict(web: Web, client: str, given: dict[str, Any], count: int = 2) -> httpx.Response:
    files = [("images", (f"{index}.png", content)) for index, content in enumerate(striped(count, 3, 99))]
    return web("POST", "/predict", data={"client": client, **given}, files=files)


def notes() -> list[str]:
    return [f"seen on the {side}, shift {number}" for side in SIDES for number in range(4)]


def test_a_note_decides_where_the_pictures_look_alike(web: Web) -> None:
    made = adapt(web, "noted", {"texts": notes()})
    assert made.status_code == 201
    assert made.json()["report"]["modalities"] == ["image", "text"]
    found = predict(web, "noted", {"texts": ["left, shift 2", "right, shift 2"]}).json()["predictions"]
    assert [each["label"] for each in found] == ["left", "right"]
    assert [each["modalities"] for each in found] == [["image", "text"]] * 2
    details = web("GET", "/clients/noted/versions/1").json()
    assert details["report"]["modalities"] == ["image", "text"]
    assert [sample["text"] for sample in details["sample_list"]] == notes()


def test_the_python_client_sends_notes_and_numbers(web: Web) -> None:
    pictures = striped(8, 3)
    samples = [
        LabelledFile(note.split()[3].strip(","), "a.png", picture, text=note)
        for note, picture in zip(notes(), pictures, strict=True)
    ]
    with Client("http://127.0.0.1", transport=InProcess(web)) as client:
        client.adapt("by-client", samples, AdaptOptions(publish="always"))
        found = client.predict("by-client", [Image(pictures[0], text="right, shift 1"), pictures[0]]).predictions
        assert [each.modalities for each in found] == [["image", "text"], ["image"]]
        assert found[0].label == "right"
        with pytest.raises(ServiceProblem) as refused:
            client.predict("by-client", Image(pictures[0], vector=[2, 0.5]))
        assert refused.value.code == "modality_unsupported"


def test_a_request_without_notes_is_answered_from_the_image_and_says_so(web: Web) -> None:
    adapt(web, "quiet", {"texts": notes()})
    found = predict(web, "quiet", {"texts": ["left", ""]}).json()["predictions"]
    assert [each["modalities"] for each in found] == [["image", "text"], ["image"]]
    for each in (found[1], *predict(web, "quiet", {}).json()["predictions"]):
        assert each["modalities"] == ["image"]
        assert each["familiarity"] is each["unknown_score"] is each["unknown_threshold"] is None
        assert each["verdict"] == "known"


def test_notes_do_not_count_for_a_version_that_was_taught_without(web: Web) -> None:
    made = adapt(web, "unnoted", {}).json()
    assert made["report"]["modalities"] == ["image"]
    with_notes = predict(web, "unnoted", {"texts": ["left", "right"]}).json()["predictions"]
    assert with_notes == predict(web, "unnoted", {}).json()["predictions"]
    assert with_notes[0]["modalities"] == ["image"]


def test_an_extension_keeps_the_notes_of_earlier_samples(web: Web) -> None:
    adapt(web, "longer", {"texts": notes()})
    made = adapt(web, "longer", {"texts": ["top"] * 4}, ["top"], seed=1)
    assert made.status_code == 201
    found = predict(web, "longer", {"texts": ["left", "right", "top"]}, 3).json()["predictions"]
    assert [each["label"] for each in found] == ["left", "right", "top"]


def test_readings_are_numbers(web: Web) -> None:
    settings = {"model": "readings"}
    adapt(web, "measured", {"texts": notes()})
    assert web("PATCH", "/clients/measured/settings", json=settings).status_code == 200
    vectors = [f"[{1000 * (place // 4) + place}, 0.5]" for place in range(8)]
    assert adapt(web, "measured", {"vectors": vectors, "mode": "replace"}, seed=2).status_code == 201
    found = predict(web, "measured", {"vectors": ["[2, 0.5]", "[1005, 0.5]"]}).json()["predictions"]
    assert [each["label"] for each in found] == list(SIDES)
    assert web("GET", "/clients/measured/versions/2").json()["sample_list"][0]["vector"] == [0, 0.5]


def test_a_model_that_does_not_take_them_is_a_problem(web: Web) -> None:
    refused = adapt(web, "texts-only", {"vectors": ["[1, 2]"] * 8})
    assert (refused.status_code, refused.json()["code"]) == (422, "modality_unsupported")
    adapt(web, "texts-only", {})
    web("PATCH", "/clients/texts-only/settings", json={"model": "tiny"})
    refused = adapt(web, "texts-only", {"texts": notes()})
    assert (refused.status_code, refused.json()["code"]) == (422, "modality_unsupported")
    assert adapt(web, "texts-only", {"mode": "replace"}).status_code == 201
    refused = predict(web, "texts-only", {"texts": ["a", "b"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "modality_unsupported")
    (found, _) = predict(web, "texts-only", {}).json()["predictions"]
    assert "modalities" not in found


@pytest.fixture(scope="module")
def backbone(web: Web) -> str:
    """Name of a client of the frozen backbone, with notes in version 2 and none in version 3."""
    adapt(web, "frozen", {})
    assert web("PATCH", "/clients/frozen/settings", json={"model": BACKBONE}).status_code == 200
    assert adapt(web, "frozen", {"texts": notes(), "mode": "replace"}).status_code == 201
    assert adapt(web, "frozen", {"mode": "replace"}).status_code == 201
    return "frozen"


def test_a_frozen_backbone_takes_notes(web: Web, backbone: str) -> None:
    assert web("GET", f"/models/{BACKBONE}").json()["takes"] == "text"
    assert web("GET", f"/clients/{backbone}/versions/2").json()["report"]["modalities"] == ["image", "text"]
    given = {"texts": ["left, shift 2", "right, shift 2", ""], "version": "2"}
    found = predict(web, backbone, given, 3).json()["predictions"]
    alone = predict(web, backbone, {"version": "2"}).json()["predictions"]
    for side, noted, plain in zip(("left", "right"), found, alone, strict=False):
        assert noted["scores"][side] > plain["scores"][side] + 0.05
    assert [each["modalities"] for each in found] == [["image", "text"], ["image", "text"], ["image"]]
    assert found[2]["familiarity"] is found[2]["unknown_threshold"] is None
    refused = adapt(web, backbone, {"vectors": ["[1, 2]"] * 8})
    assert (refused.status_code, refused.json()["code"]) == (422, "modality_unsupported")


def test_a_frozen_backbone_averages_over_its_uncertainty_with_notes_too(web: Web) -> None:
    web("PUT", "/clients/unsure/settings", json={"model": BACKBONE, "uncertainty": "bayes"})
    assert adapt(web, "unsure", {"texts": notes()}).status_code == 201
    noted = predict(web, "unsure", {"texts": ["left, shift 2", "right, shift 2"]}).json()["predictions"]
    plain = predict(web, "unsure", {}).json()["predictions"]
    for side, with_note, without in zip(SIDES, noted, plain, strict=True):
        assert with_note["scores"][side] > without["scores"][side] + 0.02
    for found in (*noted, *plain):
        parts = found["uncertainty"]
        assert parts["total"] == pytest.approx(parts["data"] + parts["model"], abs=1e-5)
        assert parts["model"] > 0
        assert sum(found["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_a_version_of_a_frozen_backbone_without_notes_is_as_ever(web: Web, backbone: str) -> None:
    assert web("GET", f"/clients/{backbone}/versions/3").json()["report"]["modalities"] is None
    alone = predict(web, backbone, {}).json()["predictions"]
    assert "modalities" not in alone[0]
    with_notes = predict(web, backbone, {"texts": ["left", ""]}).json()["predictions"]
    assert [each.pop("modalities") for each in with_notes] == [["image"], None]
    assert with_notes == alone


def test_a_version_with_notes_of_a_frozen_backbone_is_not_exported(web: Web, backbone: str) -> None:
    for form in ("onnx", "torch"):
        refused = web("GET", f"/clients/{backbone}/versions/2/export?format={form}")
        assert (refused.status_code, refused.json()["code"]) == (422, "export_unsupported")
        assert "taught with texts" in refused.json()["detail"]
    assert web("GET", f"/clients/{backbone}/versions/3/export?format=onnx").status_code == 200


def test_a_version_with_notes_of_a_frozen_backbone_does_not_go_to_devices(tmp_path: Path) -> None:
    settings = load_settings(data=tmp_path, model=BACKBONE, device="cpu", demo=False, decoder_processes=0)
    services = bootstrap.build(settings)
    asked = command("noted", (6, 20))
    uploads = tuple(
        replace(each, second=f"on {label}") for each, label in zip(asked.uploads, asked.labels, strict=True)
    )
    services.adaptation.run(replace(asked, uploads=uploads))
    services.close()
    loaded = LoadedCheckpoint(load_checkpoint(BACKBONE), torch.device("cpu"))
    with open_store(StoreLocation.of(settings), missing="reject") as store:
        version = store.catalog.version("noted", 1)
        with pytest.raises(InvalidRequest, match="taught with texts"):
            build_release(store, version, loaded)
    loaded.close()


def test_another_number_of_notes_than_of_images_is_a_problem(web: Web) -> None:
    refused = adapt(web, "counted", {"texts": ["left"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "modality_count_mismatch")
    adapt(web, "counted", {"texts": notes()})
    assert predict(web, "counted", {"texts": ["left"]}).json()["code"] == "modality_count_mismatch"


def test_a_client_that_keeps_no_samples_keeps_no_notes(web: Web) -> None:
    adapt(web, "private", {})
    web("PATCH", "/clients/private/settings", json={"retain_samples": False})
    assert adapt(web, "private", {"texts": notes(), "mode": "replace"}).status_code == 201
    details = web("GET", "/clients/private/versions/2").json()
    assert [sample["text"] for sample in details["sample_list"]] == [None] * 8
    assert details["report"]["modalities"] == ["image", "text"]
