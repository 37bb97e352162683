"""The API with the real use cases and store: adapt, extend, predict, roll back, read, delete and restart."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from models.errors import CheckpointInvalid
from service import bootstrap
from service.errors import StoreUnavailable
from service.http.app import create_app
from service.settings import Settings
from tests.generated import striped
from tests.in_process import Web, started
from tests.repeated import repeats_bit_by_bit

CLASSES = {"fine": 6, "coarse": 20}


def samples(classes: dict[str, int], count: int = 4, seed: int = 0) -> tuple[list[tuple[str, bytes]], list[str]]:
    named, labels = [], []
    for label, period in classes.items():
        for index, content in enumerate(striped(count, period, seed)):
            named.append((f"{label}-{index}.png", content))
            labels.append(label)
    return named, labels


def adapt(web: Web, client: str = "line", classes: dict[str, int] | None = None, **options: Any) -> Any:
    named, labels = samples(classes or CLASSES, seed=options.pop("image_seed", 0))
    headers = options.pop("headers", {})
    files = [("samples", item) for item in named]
    return web("POST", "/adapt", data={"client": client, "labels": labels, **options}, files=files, headers=headers)


def predict(web: Web, images: list[bytes], client: str = "line", **fields: str) -> Any:
    files = [("images", (f"{index}.png", content)) for index, content in enumerate(images)]
    return web("POST", "/predict", data={"client": client, **fields}, files=files)


def test_a_new_client_is_adapted_and_its_classes_are_distinguished(web: Web) -> None:
    adapted = adapt(web)
    assert adapted.status_code == 201, adapted.text
    body = adapted.json()
    assert (body["version"], body["parent"], body["published"], body["live"]) == (1, None, True, 1)
    assert sorted(body["classes"]) == ["coarse", "fine"]
    assert body["model"] == "tiny"
    assert body["report"]["estimated_accuracy"] > 0.75
    predicted = predict(web, striped(3, 6, seed=9) + striped(3, 20, seed=9)).json()
    assert [image["label"] for image in predicted["predictions"]] == ["fine"] * 3 + ["coarse"] * 3
    for image in predicted["predictions"]:
        assert sum(image["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert image["confidence"] == max(image["scores"].values())
    assert predicted["weights_digest"] == body["weights"]["digest"]


def test_extending_keeps_earlier_classes_and_replacing_does_not(web: Web) -> None:
    adapt(web)
    extended = adapt(web, classes={"broad": 30}).json()
    assert (extended["version"], extended["parent"]) == (2, 1)
    assert sorted(extended["classes"]) == ["broad", "coarse", "fine"]
    details = web("GET", "/clients/line/versions/2").json()
    assert len(details["sample_list"]) == 12
    replaced = adapt(web, classes={"a": 5, "b": 11}, mode="replace").json()
    assert (replaced["parent"], sorted(replaced["classes"])) == (None, ["a", "b"])


def test_a_single_class_is_rejected_until_a_second_one_is_known(web: Web) -> None:
    rejected = adapt(web, classes={"fine": 4})
    assert (rejected.status_code, rejected.json()["code"]) == (422, "too_few_classes")
    assert web("GET", "/clients").json() == {"clients": []}
    adapt(web)
    assert adapt(web, classes={"fine": 4}, image_seed=3).status_code == 201


def test_an_archive_gives_the_same_version_as_the_files_in_it(web: Web) -> None:
    named, labels = samples(CLASSES)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for (name, content), label in zip(named, labels, strict=True):
            archive.writestr(f"parts/{label}/{name}", content)
    packed = web("POST", "/adapt", data={"client": "packed"}, files=[("archive", ("p.zip", held.getvalue()))])
    assert packed.status_code == 201, packed.text
    assert packed.json()["weights"] == adapt(web).json()["weights"]


def test_an_older_version_and_another_alias_can_be_requested(web: Web) -> None:
    adapt(web)
    adapt(web, classes={"broad": 30})
    image = striped(1, 30, seed=9)
    assert predict(web, image).json()["version"] == 2
    old = predict(web, image, version="1").json()
    assert (old["version"], sorted(old["predictions"][0]["scores"])) == (1, ["coarse", "fine"])
    web("PUT", "/clients/line/aliases/trusted", json={"version": 1})
    assert predict(web, image, alias="trusted").json()["predictions"] == old["predictions"]


def test_rolling_back_goes_back_step_by_step_and_is_in_the_history(web: Web) -> None:
    for seed in range(3):
        adapt(web, image_seed=seed)
    assert [web("POST", "/clients/line/rollback").json()["version"] for _ in range(2)] == [2, 1]
    last = web("POST", "/clients/line/rollback")
    assert (last.status_code, last.json()["code"]) == (409, "nothing_to_roll_back_to")
    history = web("GET", "/clients/line/history").json()
    assert [(move["version"], move["reason"]) for move in history["moves"]] == [
        (1, "adapt"), (2, "adapt"), (3, "adapt"), (2, "rollback"), (1, "rollback"),
    ]  # fmt: skip
    third = history["moves"][2]["moved_at"]
    assert web("GET", "/clients/line/history", params={"at": third}).json()["live"] == 3


def test_a_held_version_is_not_live(web: Web) -> None:
    held = adapt(web, publish="never").json()
    assert (held["published"], held["live"], held["report"]["gate"]["decision"]) == (False, None, "hold")
    nothing = predict(web, striped(1, 4))
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_live")
    assert predict(web, striped(1, 4), version="1").status_code == 200


def test_the_etag_of_a_deleted_client_does_not_match_its_successor(web: Web) -> None:
    adapt(web)
    old = web("GET", "/clients/line/aliases/live").json()["etag"]
    assert web("DELETE", "/clients/line").status_code == 200
    adapt(web)
    moved = web("PUT", "/clients/line/aliases/live", json={"version": 1}, headers={"If-Match": old})
    assert (moved.status_code, moved.json()["code"]) == (412, "alias_conflict")
    new = web("GET", "/clients/line/aliases/live").json()["etag"]
    moved = web("PUT", "/clients/line/aliases/live", json={"version": 1}, headers={"If-Match": new})
    assert moved.status_code == 200


def test_an_alias_of_the_real_store_moves_only_with_a_current_etag(web: Web) -> None:
    adapt(web)
    adapt(web, image_seed=1)
    etag = web("GET", "/clients/line").headers["etag"]
    first = web("PUT", "/clients/line/aliases/live", json={"version": 1}, headers={"If-Match": etag})
    second = web("PUT", "/clients/line/aliases/live", json={"version": 2}, headers={"If-Match": etag})
    assert (first.status_code, second.status_code) == (200, 412)
    created = web("PUT", "/clients/line/aliases/new", json={"version": 2}, headers={"If-None-Match": "*"})
    again = web("PUT", "/clients/line/aliases/new", json={"version": 1}, headers={"If-None-Match": "*"})
    assert (created.status_code, again.status_code) == (200, 412)
    star = web("PUT", "/clients/line/aliases/none", json={"version": 2}, headers={"If-Match": "*"})
    assert (star.status_code, star.json()["code"]) == (412, "alias_conflict")


def test_a_live_version_cannot_be_deleted_but_another_one_can(web: Web) -> None:
    adapt(web)
    adapt(web, image_seed=1)
    kept = web("DELETE", "/clients/line/versions/2")
    assert (kept.status_code, kept.json()["code"]) == (409, "version_in_use")
    assert web("DELETE", "/clients/line/versions/1").status_code == 204
    gone = web("GET", "/clients/line/versions/1")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_version")
    assert [version["version"] for version in web("GET", "/clients/line/versions").json()["versions"]] == [2]
    assert adapt(web, image_seed=2).json()["version"] == 3


def test_deleting_a_client_does_not_affect_other_clients(web: Web) -> None:
    adapt(web, "one")
    adapt(web, "two")
    deleted = web("DELETE", "/clients/one")
    assert (deleted.status_code, deleted.json()["client"], deleted.json()["versions"]) == (200, "one", 1)
    assert deleted.json()["blobs"] > 1
    assert [client["client"] for client in web("GET", "/clients").json()["clients"]] == ["two"]
    assert predict(web, striped(1, 4), "two").status_code == 200
    assert predict(web, striped(1, 4), "one").json()["code"] == "unknown_client"


def test_downloaded_weights_are_a_complete_safetensors_file(web: Web) -> None:
    adapt(web)
    content = web("GET", "/clients/line/versions/1/weights").content
    (header_bytes,) = struct.unpack("<Q", content[:8])
    tensors = {name for name in json.loads(content[8 : 8 + header_bytes]) if name != "__metadata__"}
    assert len(tensors) > 8


def test_the_same_idempotency_key_and_body_make_one_version_and_another_body_none(web: Web) -> None:
    key = {"Idempotency-Key": "order-66"}
    first = adapt(web, headers=key)
    again = adapt(web, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    other = adapt(web, headers=key, image_seed=1)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert web("GET", "/clients/line").json()["versions"] == 1
    assert adapt(web, "another", headers=key).json()["version"] == 1


def test_versions_and_responses_survive_a_restart(web: Web, settings: Settings) -> None:
    key = {"Idempotency-Key": "once"}
    before = adapt(web, headers=key).json()
    predictions = predict(web, striped(2, 4)).json()["predictions"]
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as restarted:
        assert adapt(restarted, headers=key).json() == before
        assert predict(restarted, striped(2, 4)).json()["predictions"] == predictions


def test_a_version_can_be_reproduced_bit_by_bit_from_its_record(web: Web, settings: Settings) -> None:
    adapt(web)
    adapt(web, classes={"broad": 30}, steps="3", learning_rate="0.02", seed="11")
    for number in (1, 2):
        assert repeats_bit_by_bit(settings, "line", number)


def test_a_flipped_bit_in_stored_weights_is_detected_and_never_predicted_with(web: Web, settings: Settings) -> None:
    digest = adapt(web).json()["weights"]["digest"]
    (blob,) = [path for path in settings.data.rglob("*") if path.is_file() and path.name.startswith(digest)]
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(content)
    assert hashlib.sha256(content).hexdigest() != digest
    response = predict(web, striped(1, 4))
    assert (response.status_code, response.json()["code"]) == (503, "version_corrupt")


def test_models_and_readiness_describe_the_real_checkpoint(web: Web) -> None:
    (only,) = web("GET", "/models").json()["models"]
    assert (only["name"], only["image"]["side"], only["recipe"]["steps"]) == ("tiny", 28, 5)
    adapt(web)
    ready = web("GET", "/readyz")
    assert (ready.status_code, set(ready.json()["checks"].values())) == (200, {"ok"})


def test_cached_weights_are_counted(web: Web) -> None:
    adapt(web)
    for _ in range(3):
        predict(web, striped(1, 4))
    metrics = web("GET", "/metrics").text
    assert "anole_weight_cache_loads_total 1.0" in metrics
    assert "anole_weight_cache_hits_total 2.0" in metrics
    counts = [float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith("anole_images_total{")]
    assert sum(counts) == 3


def test_a_file_as_the_data_folder_is_rejected_at_start(settings: Settings) -> None:
    settings.data.write_bytes(b"")
    with pytest.raises(StoreUnavailable, match=re.escape(str(settings.data))) as rejected:
        bootstrap.build(settings)
    assert len(str(rejected.value).splitlines()) == 1


def test_a_damaged_checkpoint_is_rejected_at_start(settings: Settings, tiny_checkpoint: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_checkpoint.read_bytes())
    content[-1] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    with pytest.raises(CheckpointInvalid, match="damaged") as rejected:
        bootstrap.build(settings.model_copy(update={"model": (str(damaged),)}))
    assert len(str(rejected.value).splitlines()) == 1
