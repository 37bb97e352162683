"""Both clients against the real HTTP face in this process, and against answers that a service should not give."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.client.client import AsyncClient, Client
from service.client.types import AdaptOptions, InvalidInput, LabelledFile, ServiceProblem, ServiceUnreachable
from tests.in_process import Web

PNG = b"\x89PNG"


@pytest.fixture
def anole(in_process: httpx.BaseTransport) -> Iterator[Client]:
    with Client("http://127.0.0.1", transport=in_process) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = tmp_path / "parts"
    for name in ("good/1.png", "good/2.png", "bad/1.png", "good/.DS_Store", ".git/config"):
        path = parts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return parts


def test_a_folder_of_class_folders_is_adapted_on(anole: Client, web: Web, folder: Path) -> None:
    adapted = anole.adapt("line", folder)
    assert (adapted.version, adapted.classes, adapted.published, adapted.live) == (1, ("bad", "good"), True, 1)
    assert adapted.report.gate.decision == "publish"
    (command,) = web.services.adaptation.commands
    assert command.labels == ("bad", "good", "good")
    assert [upload.name for upload in command.uploads] == ["1.png", "1.png", "2.png"]


def test_a_zip_and_labelled_images_are_adapted_on_alike(anole: Client, web: Web, folder: Path, tmp_path: Path) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in ("bad/1.png", "good/1.png"):
            archive.writestr(name, PNG)
    packed = tmp_path / "parts.zip"
    packed.write_bytes(held.getvalue())
    anole.adapt("line", packed)
    anole.adapt("line", [(folder / "bad/1.png", "bad"), LabelledFile("good", "1.png", PNG)])
    assert [command.labels for command in web.services.adaptation.commands] == [("bad", "good")] * 2


def test_options_and_a_key_are_sent(anole: Client, web: Web, folder: Path) -> None:
    options = AdaptOptions(mode="replace", steps=3, learning_rate=0.5, seed=4, publish="never")
    assert not anole.adapt("line", folder, options, idempotency_key="once").published
    (command,) = web.services.adaptation.commands
    assert (command.mode, command.steps, command.learning_rate, command.seed) == ("replace", 3, 0.5, 4)
    assert command.idempotency.key == "once"


def test_every_adaptation_has_a_key_of_its_own(anole: Client, web: Web, folder: Path) -> None:
    for _ in range(2):
        anole.adapt("line", folder)
    keys = {command.idempotency.key for command in web.services.adaptation.commands}
    assert len(keys) == 2


def test_images_are_judged_from_paths_and_from_bytes(anole: Client, folder: Path) -> None:
    anole.adapt("line", folder)
    predicted = anole.predict("line", [folder / "good/1.png", PNG])
    assert [image.name for image in predicted.predictions] == ["1.png", "image-1"]
    assert (predicted.version, predicted.predictions[0].label) == (1, "bad")


def test_versions_aliases_history_and_weights_are_read(anole: Client, folder: Path) -> None:
    for _ in range(2):
        anole.adapt("line", folder)
    assert [version.version for version in anole.versions("line")] == [1, 2]
    assert [client.client for client in anole.clients()] == ["line"]
    alias = anole.alias("line")
    moved = anole.move_alias("line", "live", 1, etag=alias.etag)
    assert (moved.version, anole.client("line").live) == (1, 1)
    with pytest.raises(ServiceProblem) as caught:
        anole.move_alias("line", "live", 2, etag=alias.etag)
    assert caught.value.code == "alias_conflict"
    assert anole.rollback("line").version == 2
    assert anole.history("line", datetime(2026, 3, 1, 12, 1, tzinfo=UTC)).live == 2
    assert anole.weights("line", 1) == b"safetensors"
    anole.delete("line", 1)
    anole.delete("line")
    assert anole.clients() == ()


def test_a_problem_becomes_an_error_with_its_code(anole: Client) -> None:
    with pytest.raises(ServiceProblem) as caught:
        anole.versions("nobody")
    assert (caught.value.status, caught.value.code) == (404, "unknown_client")
    assert str(caught.value) == "unknown_client: there is no client 'nobody'"
    assert len(caught.value.request_id) == 32


def test_names_go_into_the_path_as_they_are(anole: Client) -> None:
    with pytest.raises(ServiceProblem) as caught:
        anole.versions("../models")
    assert caught.value.code in {"not_found", "invalid_name"}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "is no folder"),
        (["good/1.png"], "has 1 sub-folders"),
        (["1.png", "2.png"], "has 0 sub-folders"),
        (["good/1.png", "bad/"], "bad has no images"),
    ],
)
def test_a_folder_that_cannot_be_sent_is_refused_here(
    anole: Client, tmp_path: Path, made: list[str], said: str
) -> None:
    folder = tmp_path / "parts"
    for name in made:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.write_bytes(PNG)
    with pytest.raises(InvalidInput, match=said):
        anole.adapt("line", folder)


def test_a_missing_image_and_no_image_are_refused_here(anole: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        anole.predict("line", [tmp_path / "none.png"])
    with pytest.raises(InvalidInput, match="no image"):
        anole.predict("line", [])


def busy_then(times: int, then: Callable[[httpx.Request], httpx.Response]) -> tuple[httpx.MockTransport, list[Any]]:
    """A service that is overloaded so many times before it answers; and the list of requests it got."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) > times:
            return then(request)
        body = {"type": "t", "title": "t", "status": 503, "code": "overloaded", "detail": "d", "instance": "/"}
        headers = {"Retry-After": "3", "Content-Type": "application/problem+json"}
        return httpx.Response(503, json=body, headers=headers)

    return httpx.MockTransport(answer), seen


def test_a_repeatable_call_waits_as_told_and_tries_again() -> None:
    transport, seen = busy_then(2, lambda _: httpx.Response(200, json={"clients": []}))
    waited: list[float] = []
    with Client(transport=transport, wait=waited.append) as anole:
        assert anole.clients() == ()
    assert (len(seen), waited) == (3, [3, 3])


def test_an_adaptation_is_repeated_with_the_same_key(folder: Path) -> None:
    transport, seen = busy_then(9, lambda _: httpx.Response(500))
    with Client(transport=transport, wait=lambda _: None) as anole, pytest.raises(ServiceProblem) as caught:
        anole.adapt("line", folder)
    assert caught.value.retry_after_s == 3
    assert len(seen) == 4
    assert len({request.headers["idempotency-key"] for request in seen}) == 1


def test_what_would_do_more_the_second_time_is_not_repeated() -> None:
    transport, seen = busy_then(9, lambda _: httpx.Response(500))
    with Client(transport=transport, wait=lambda _: None) as anole, pytest.raises(ServiceProblem):
        anole.rollback("line")
    assert len(seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>a proxy</html>"),
        httpx.Response(200, json={"other": "service"}),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(302, headers={"Location": "http://elsewhere"}),
    ],
    ids=["html", "other json", "bad gateway", "redirect"],
)
def test_an_answer_that_is_not_the_services_is_said_to_be_none(answer: httpx.Response) -> None:
    with Client(transport=httpx.MockTransport(lambda _: answer)) as anole, pytest.raises(ServiceUnreachable):
        anole.clients()


@pytest.mark.parametrize(
    ("error", "said"),
    [(httpx.ConnectError("refused"), "is the service running"), (httpx.ReadTimeout("slow"), "in time")],
)
def test_no_answer_is_an_error_that_says_what_to_look_at(error: httpx.HTTPError, said: str) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with Client(transport=httpx.MockTransport(fail)) as anole, pytest.raises(ServiceUnreachable, match=said):
        anole.clients()


def test_the_awaiting_client_sends_and_reads_the_same(web: Web, anole: Client, folder: Path) -> None:
    async def talk() -> tuple[Any, ...]:
        async with AsyncClient("http://127.0.0.1", transport=web.transport) as awaiting:
            adapted = await awaiting.adapt("line", folder)
            predicted = await awaiting.predict("line", [PNG], version=1)
            return adapted, predicted, await awaiting.versions("line"), await awaiting.client("line")

    adapted, predicted, versions, client = web.portal.call(talk)
    assert (adapted.version, predicted.version) == (1, 1)
    assert versions == anole.versions("line")
    assert client == anole.client("line")


def test_the_awaiting_client_waits_and_tries_again_too() -> None:
    transport, seen = busy_then(1, lambda _: httpx.Response(200, json={"clients": []}))
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    async def talk() -> None:
        async with AsyncClient(transport=transport, wait=wait) as anole:
            assert await anole.clients() == ()

    anyio.run(talk)
    assert (len(seen), waited) == (2, [3])


def test_both_clients_offer_the_same_calls() -> None:
    waiting = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    awaiting = {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}
    assert waiting == awaiting
