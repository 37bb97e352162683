"""The whole service on a GPU, and one store served by turns from a GPU and from the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from service import bootstrap
from service.http.app import create_app
from service.settings import load_settings
from tests.generated import striped, tiny_checkpoint_in
from tests.in_process import Web, started

MODELS = ("efficientnet-lite0", "surfaces", "surface-notes", "omniglot")
PERIODS = {"fine": 4, "middle": 8, "coarse": 14}


@contextmanager
def served(folder: Path, device: Literal["cpu", "cuda"], models: Sequence[str] = MODELS) -> Iterator[Web]:
    settings = load_settings(
        data=folder, model=list(models), device=device, demo=False, decoder_processes=0,
        adapt_running=64, adapt_waiting=64,
    )  # fmt: skip
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[Web]:
    with served(folder / "module", "cuda") as running:
        yield running


def adapt(web: Web, client: str, count: int = 6, seed: int = 0, **fields: Any) -> httpx.Response:
    pictures = [(label, picture) for label, period in PERIODS.items() for picture in striped(count, period, seed)]
    files = [("samples", (f"{index}.png", picture)) for index, (_, picture) in enumerate(pictures)]
    labels = [label for label, _ in pictures]
    return web("POST", "/adapt", data={"client": client, "labels": labels, "publish": "always", **fields}, files=files)


def predict(web: Web, client: str, **fields: Any) -> list[dict[str, Any]]:
    pictures = [picture for period in PERIODS.values() for picture in striped(2, period, seed=9)]
    files = [("images", (f"{index}.png", picture)) for index, picture in enumerate(pictures)]
    response = web("POST", "/predict", data={"client": client, **fields}, files=files)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


def labels_of(predictions: Sequence[dict[str, Any]]) -> list[str]:
    return [each["label"] for each in predictions]


def assert_close(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], within: float = 0.02) -> None:
    assert labels_of(first) == labels_of(second)
    for one, other in zip(first, second, strict=True):
        assert one["verdict"] == other["verdict"]
        assert one["scores"] == pytest.approx(other["scores"], abs=within)


@pytest.mark.parametrize("model", MODELS)
def test_a_version_serves_the_same_from_a_gpu_and_from_the_cpu(folder: Path, model: str) -> None:
    data, found = folder / model, {}
    for made_on, then_on in (("cuda", "cpu"), ("cpu", "cuda")):
        with served(data, made_on, [model]) as web:  # type: ignore[arg-type]
            response = adapt(web, f"by-{made_on}")
            assert response.status_code == 201, response.text
            assert web("GET", f"/clients/by-{made_on}/versions/1").json()["device"] == made_on
            before = found[made_on] = predict(web, f"by-{made_on}")
            assert labels_of(before).count("fine") >= 1
        with served(data, then_on, [model]) as web:  # type: ignore[arg-type]
            assert_close(before, predict(web, f"by-{made_on}"))
    assert_close(found["cuda"], found["cpu"], within=0.1)


@pytest.mark.parametrize("model", MODELS)
def test_estimate_extension_and_rollback(web: Web, model: str) -> None:
    client = f"whole-{model}"
    web("PUT", f"/clients/{client}/settings", json={"model": model})
    first, second = adapt(web, client).json(), adapt(web, client, seed=1).json()
    assert (first["version"], second["version"], second["live"]) == (1, 2, 2)
    for made in (first, second):
        assert 0.5 < made["report"]["estimated_accuracy"] <= 1
        assert made["report"]["unknown_threshold"] > 0
    assert web("POST", f"/clients/{client}/rollback").json()["version"] == 1
    once, again = predict(web, client, version="2"), predict(web, client, version="2")
    assert once == again


@pytest.mark.parametrize("model", MODELS)
def test_predictions_averaged_over_the_uncertainty_of_the_weights(web: Web, model: str) -> None:
    client = f"bayes-{model}"
    web("PUT", f"/clients/{client}/settings", json={"model": model, "uncertainty": "bayes"})
    assert adapt(web, client).status_code == 201
    for prediction in predict(web, client):
        parts = prediction["uncertainty"]
        assert parts["total"] == pytest.approx(parts["data"] + parts["model"], abs=1e-4)


@pytest.mark.parametrize("model", ["efficientnet-lite0", "surfaces", "omniglot"])
def test_explanations(web: Web, model: str) -> None:
    client = f"explained-{model}"
    web("PUT", f"/clients/{client}/settings", json={"model": model})
    adapt(web, client)
    explained, plain = predict(web, client, explain="true"), predict(web, client)
    assert labels_of(explained) == labels_of(plain)
    assert all(each["explanation"] for each in explained)


@pytest.mark.parametrize("model", ["efficientnet-lite0", "surface-notes"])
def test_notes(web: Web, model: str) -> None:
    client = f"noted-{model}"
    web("PUT", f"/clients/{client}/settings", json={"model": model})
    notes = [f"{label} side, part {number}" for label in PERIODS for number in range(6)]
    made = adapt(web, client, texts=notes)
    assert made.status_code == 201, made.text
    found = predict(web, client, texts=[f"{label} side" for label in PERIODS for _ in range(2)])
    assert labels_of(found) == [label for label in PERIODS for _ in range(2)]
    assert found[0]["modalities"] == ["image", "text"]
    assert predict(web, client)[0]["modalities"] == ["image"]


def test_many_clients_adapt_in_batches(web: Web) -> None:
    clients = [f"busy-{number}" for number in range(24)]
    for client in clients:
        web("PUT", f"/clients/{client}/settings", json={"model": "omniglot"})
    with ThreadPoolExecutor(24) as pool:
        made = [work.result() for work in [pool.submit(adapt, web, client, 4) for client in clients]]
        assert {each.status_code for each in made} == {201}
    first = predict(web, clients[0])
    for client in clients[1:]:
        assert_close(first, predict(web, client))
    together = [web("GET", f"/clients/{client}/versions/1").json()["batched_with"] for client in clients]
    assert max(together) > 0


def test_an_adaptation_that_diverges_fails_alone(folder: Path) -> None:
    tiny = str(tiny_checkpoint_in(folder))
    with served(folder / "diverging", "cuda", [tiny]) as web, ThreadPoolExecutor(2) as pool:
        tame = pool.submit(adapt, web, "tame", learning_rate="0.05", steps="50")
        wild = pool.submit(adapt, web, "wild", learning_rate="1e6", steps="50")
        assert tame.result().status_code == 201
        assert (wild.result().status_code, wild.result().json()["code"]) == (422, "adaptation_diverged")


def test_a_version_made_on_a_gpu_can_be_exported(web: Web) -> None:
    adapt(web, "exported")
    exported = web("GET", "/clients/exported/versions/1/export?format=onnx")
    assert exported.status_code == 200
    assert len(exported.content) > 1000
    listed = json.loads(web("GET", "/models").content)["models"]
    assert [each["name"] for each in listed] == list(MODELS)
