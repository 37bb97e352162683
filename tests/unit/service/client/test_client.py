"""Both clients with the real application in this process, and with responses that no service sends."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.client import (
    AdaptOptions,
    AsyncClient,
    Client,
    ClientSettings,
    InvalidInput,
    LabelledFile,
    ServiceProblem,
    ServiceUnreachable,
    read_samples,
    requests,
    with_parts,
)
from tests.in_process import Web
from tests.unit.service.scripted_job import adapted

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


def test_adapt_sends_a_folder_of_class_folders(anole: Client, web: Web, folder: Path) -> None:
    adapted = anole.adapt("line", folder)
    assert (adapted.version, adapted.classes, adapted.published, adapted.live) == (1, ["bad", "good"], True, 1)
    assert adapted.report.gate.decision == "publish"
    (command,) = web.services.adaptation.commands
    assert command.labels == ("bad", "good", "good")
    assert [upload.name for upload in command.uploads] == ["1.png", "1.png", "2.png"]


def test_a_folder_with_one_class_extends_a_client(anole: Client, web: Web, folder: Path, tmp_path: Path) -> None:
    anole.adapt("line", folder)
    (tmp_path / "more" / "dent").mkdir(parents=True)
    (tmp_path / "more" / "dent" / "1.png").write_bytes(PNG)
    anole.adapt("line", str(tmp_path / "more"))
    assert web.services.adaptation.commands[-1].labels == ("dent",)


def test_adapt_sends_a_zip_and_labelled_images(anole: Client, web: Web, folder: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("bad/1.png", "good/1.png"):
            archive.writestr(name, PNG)
    (packed := tmp_path / "parts.zip").write_bytes(buffer.getvalue())
    anole.adapt("line", str(packed))
    anole.adapt("line", [(str(folder / "bad/1.png"), "bad"), LabelledFile("good", "1.png", PNG)])
    assert [command.labels for command in web.services.adaptation.commands] == [("bad", "good")] * 2
    with pytest.raises(InvalidInput, match=r"1\.png is no zip file; give a folder"):
        anole.adapt("line", str(folder / "bad/1.png"))


def test_adapt_sends_the_parts_that_file_names_contain(anole: Client, web: Web, tmp_path: Path) -> None:
    for name in ("bad/0417_1.png", "bad/0417_2.png", "good/0418.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    anole.adapt("line", with_parts(read_samples(tmp_path), r"^(\d+)"))
    anole.adapt("line", read_samples(tmp_path))
    assert [command.parts for command in web.services.adaptation.commands] == [("0417", "0417", "0418"), ()]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "not a regular expression"), ("part", "0 groups"), ("(.+)_", "no part in the file name '1.png'")],
)
def test_a_pattern_that_finds_no_part_is_rejected(folder: Path, pattern: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        with_parts(read_samples(folder), pattern)


def test_adapt_sends_options_and_the_idempotency_key(anole: Client, web: Web, folder: Path) -> None:
    options = AdaptOptions(mode="replace", steps=3, learning_rate=0.5, seed=4, publish="never")
    assert not anole.adapt("line", folder, options, idempotency_key="once").published
    (command,) = web.services.adaptation.commands
    assert (command.mode, command.steps, command.learning_rate, command.seed) == ("replace", 3, 0.5, 4)
    assert command.idempotency.key == "once"


def test_a_new_client_is_created_by_the_first_of_several_requests(anole: Client, web: Web) -> None:
    files = [LabelledFile(f"{n % 2}", f"{n}.png", PNG + bytes([n // 256, n % 256])) for n in range(400)]
    anole.adapt("line", files, AdaptOptions(new_client=True))
    first, *others = web.services.adaptation.commands
    assert first.new_client
    assert others
    assert not any(command.new_client for command in others)


def test_each_adaptation_gets_a_new_idempotency_key(anole: Client, web: Web, folder: Path) -> None:
    for _ in range(2):
        anole.adapt("line", folder)
    keys = {command.idempotency.key for command in web.services.adaptation.commands}
    assert len(keys) == 2


def test_predict_takes_paths_and_bytes(anole: Client, folder: Path) -> None:
    anole.adapt("line", folder)
    predicted = anole.predict("line", [folder / "good/1.png", PNG])
    assert [image.name for image in predicted.predictions] == ["1.png", "image-1"]
    assert anole.predict("line", [str(folder / "good/1.png")]).predictions == predicted.predictions[:1]
    for one in (folder / "good/1.png", str(folder / "good/1.png")):
        assert anole.predict("line", one).predictions == predicted.predictions[:1]
    assert (predicted.version, predicted.predictions[0].label) == (1, "bad")


def test_every_page_of_a_list_is_read(anole: Client, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for client in ("line", "line", "line", "line-2", "line-3"):
        anole.adapt(client, folder)
    everything = (anole.clients(), anole.versions("line"), anole.history("line"))
    monkeypatch.setattr(requests, "PAGE", 1)
    assert (anole.clients(), anole.versions("line"), anole.history("line")) == everything
    assert len(everything[2].moves) == 3


def test_a_service_without_pages_is_asked_until_it_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PAGE", 1)
    info = {"client": "line", "created_at": "2026-03-01T12:00:00Z", "versions": 0, "latest": 0, "live": None}
    answer = httpx.Response(200, json={"clients": [{**info, "aliases": []}]})
    with Client(transport=httpx.MockTransport(lambda _: answer)) as client:
        assert [each.client for each in client.clients()] == ["line"]


def test_versions_aliases_history_and_weights(anole: Client, folder: Path) -> None:
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
    assert anole.clients() == []


def test_upgrade_returns_both_versions(anole: Client, web: Web, folder: Path) -> None:
    anole.adapt("line", folder)
    upgraded = anole.upgrade("line", publish="never")
    assert (upgraded.version, upgraded.model, upgraded.published) == (2, "larger", False)
    assert (upgraded.before.version, upgraded.before.model) == (1, "tiny")
    assert web.services.adaptation.commands[-1].publish == "never"
    with pytest.raises(ServiceProblem) as caught:
        anole.upgrade("line")
    assert caught.value.code == "nothing_to_upgrade"


def test_a_problem_becomes_an_exception_with_its_code(anole: Client) -> None:
    with pytest.raises(ServiceProblem) as caught:
        anole.versions("missing")
    assert (caught.value.status, caught.value.code) == (404, "unknown_client")
    assert str(caught.value).startswith("unknown_client: there is no client 'missing'")
    assert len(caught.value.request_id) == 32


def test_client_names_are_quoted_in_paths(anole: Client) -> None:
    with pytest.raises(ServiceProblem) as caught:
        anole.versions("../models")
    assert caught.value.code in {"not_found", "invalid_name"}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "is not a folder"),
        (["1.png", "2.png"], "has no sub-folders with images"),
        ([".git/config", "@eaDir/1.png"], "has no sub-folders with images"),
        (["good/1.png", "bad/"], "bad has no images; add some"),
        (
            ["good/1.png", "bad/monday/2.png"],
            "bad has no images; bad/monday was skipped: a folder inside a class folder",
        ),
    ],
)
def test_an_unusable_folder_is_rejected_before_sending(
    anole: Client, tmp_path: Path, made: list[str], message: str
) -> None:
    folder = tmp_path / "parts"
    for name in made:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.write_bytes(PNG)
    with pytest.raises(InvalidInput, match=message):
        anole.adapt("line", folder)


def test_a_missing_image_and_an_empty_list_are_rejected_before_sending(anole: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        anole.predict("line", [tmp_path / "none.png"])
    with pytest.raises(InvalidInput, match="no image"):
        anole.predict("line", [])


def busy_then(
    times: int, then: Callable[[httpx.Request], httpx.Response], retry_after: str = "3"
) -> tuple[httpx.MockTransport, list[Any]]:
    """Return a service that rejects `times` requests before it responds, and the list of received requests."""
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) > times:
            return then(request)
        body = {"type": "t", "title": "t", "status": 503, "code": "overloaded", "detail": "d", "instance": "/"}
        headers = {b"Retry-After": retry_after.encode(), b"Content-Type": b"application/problem+json"}
        return httpx.Response(503, json=body, headers=headers)

    return httpx.MockTransport(respond), seen


def test_a_repeatable_request_is_sent_again_after_retry_after() -> None:
    transport, seen = busy_then(2, lambda _: httpx.Response(200, json={"clients": []}))
    slept: list[float] = []
    with Client(transport=transport, sleep=slept.append) as anole:
        assert anole.clients() == []
    assert (len(seen), slept) == (3, [3, 3])


def test_an_adaptation_is_repeated_with_the_same_idempotency_key(folder: Path) -> None:
    transport, seen = busy_then(9, lambda _: httpx.Response(500))
    with Client(transport=transport, sleep=lambda _: None) as anole, pytest.raises(ServiceProblem) as caught:
        anole.adapt("line", folder)
    assert caught.value.retry_after_s == 3
    assert len(seen) == 4
    assert len({request.headers["idempotency-key"] for request in seen}) == 1


def in_turn(*responses: tuple[int, str] | None) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """Return a service that responds with a status and code each, then with a version, and the received requests."""
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        current = responses[min(len(seen), len(responses)) - 1]
        if current is None:
            return httpx.Response(201, json=adapted())
        status, code = current
        body = {"type": "t", "title": "t", "status": status, "code": code, "detail": "d", "instance": "/"}
        headers = {"Content-Type": "application/problem+json", **({"Retry-After": "2"} if status == 503 else {})}
        return httpx.Response(status, json=body, headers=headers)

    return httpx.MockTransport(respond), seen


def test_after_a_time_limit_the_client_waits_for_the_first_request_that_still_runs(folder: Path) -> None:
    late, running = (503, "deadline_passed"), (409, "idempotency_in_flight")
    transport, seen = in_turn(late, *[running] * 9, None)
    slept: list[float] = []
    with Client(transport=transport, sleep=slept.append) as anole:
        assert anole.adapt("line", folder).version == 1
    assert slept == [2] + [1] * 9
    assert len({request.headers["idempotency-key"] for request in seen}) == 1


def test_the_client_stops_waiting_for_the_first_request_after_a_minute(folder: Path) -> None:
    transport, _ = in_turn((409, "idempotency_in_flight"))
    slept: list[float] = []
    with Client(transport=transport, sleep=slept.append) as anole, pytest.raises(ServiceProblem) as caught:
        anole.adapt("line", folder)
    assert (caught.value.code, sum(slept)) == ("idempotency_in_flight", 60)


def test_a_time_limit_that_is_exceeded_again_is_reported_as_such(folder: Path) -> None:
    late, running = (503, "deadline_passed"), (409, "idempotency_in_flight")
    transport, _ = in_turn(late, running, running, late)
    with Client(transport=transport, sleep=lambda _: None) as anole, pytest.raises(ServiceProblem) as caught:
        anole.adapt("line", folder)
    assert caught.value.code == "deadline_passed"


@pytest.mark.parametrize(("limit_s", "attempts"), [(60.0, 4), (None, 4), (1.0, 1)])
def test_a_request_that_was_too_late_is_repeated_only_within_the_timeout_of_the_client(
    limit_s: float | None, attempts: int
) -> None:
    transport, seen = in_turn((503, "deadline_passed"))  # which asks for a pause of two seconds
    timeout = httpx.Timeout(limit_s)
    with Client(transport=transport, timeout=timeout, sleep=lambda _: None) as anole, pytest.raises(ServiceProblem):
        anole.predict("line", PNG)
    assert len(seen) == attempts


def test_another_conflict_is_reported_at_once(folder: Path) -> None:
    transport, seen = in_turn((409, "parent_superseded"))
    with Client(transport=transport) as anole, pytest.raises(ServiceProblem):
        anole.adapt("line", folder)
    assert len(seen) == 1


def test_a_request_that_is_not_idempotent_is_not_repeated() -> None:
    transport, seen = busy_then(9, lambda _: httpx.Response(500))
    with Client(transport=transport, sleep=lambda _: None) as anole, pytest.raises(ServiceProblem):
        anole.rollback("line")
    assert len(seen) == 1


@pytest.mark.parametrize(("retry_after", "slept_s"), [("0", [0, 0, 0]), ("86400", [30, 30, 30]), ("9" * 9, [30] * 3)])
def test_a_long_retry_after_is_cut_to_half_a_minute(retry_after: str, slept_s: list[float]) -> None:
    transport, _ = busy_then(9, lambda _: httpx.Response(500), retry_after)
    slept: list[float] = []
    with Client(transport=transport, sleep=slept.append) as anole, pytest.raises(ServiceProblem) as caught:
        anole.clients()
    assert (slept, caught.value.retry_after_s) == (slept_s, int(retry_after))


@pytest.mark.parametrize(
    "retry_after", ["", "-1", "1.5", "soon", "\u0661", "\u00b2", "9" * 5000, "Wed, 21 Oct 2026 07:28:00 GMT"]
)
def test_a_malformed_retry_after_is_ignored(retry_after: str) -> None:
    transport, seen = busy_then(9, lambda _: httpx.Response(500), retry_after)
    with Client(transport=transport, sleep=lambda _: None) as anole, pytest.raises(ServiceProblem) as caught:
        anole.clients()
    assert (len(seen), caught.value.retry_after_s) == (1, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b'{"code": "x"}', b"\xff", b"[" * 100_000, b'{"status": "many", "title": 1}', b"1" * 5000],
    ids=["empty", "list", "null", "incomplete", "not UTF-8", "deep", "wrong types", "number"],
)
@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_malformed_body_is_an_error_and_no_traceback(status: int, body: bytes) -> None:
    response = httpx.Response(status, content=body, headers={"Content-Type": "application/problem+json"})
    with Client(transport=httpx.MockTransport(lambda _: response)) as anole, pytest.raises(ServiceUnreachable):
        anole.clients()


@pytest.mark.parametrize("url", ["http://[::1", "http://a b", "http://x:port"])
def test_a_malformed_address_is_an_error_and_no_traceback(url: str) -> None:
    with pytest.raises((InvalidInput, ServiceUnreachable)), Client(url) as anole:
        anole.clients()


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>a proxy</html>"),
        httpx.Response(200, json={"other": "service"}),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(302, headers={"Location": "http://elsewhere"}),
    ],
    ids=["html", "other json", "bad gateway", "redirect"],
)
def test_a_response_that_no_service_sends_is_an_error(response: httpx.Response) -> None:
    with Client(transport=httpx.MockTransport(lambda _: response)) as anole, pytest.raises(ServiceUnreachable):
        anole.clients()


@pytest.mark.parametrize(
    ("error", "message"),
    [(httpx.ConnectError("refused"), "is the service running"), (httpx.ReadTimeout("slow"), "in time")],
)
def test_a_missing_response_is_an_error_with_advice(error: httpx.HTTPError, message: str) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with Client(transport=httpx.MockTransport(fail)) as anole, pytest.raises(ServiceUnreachable, match=message):
        anole.clients()


def test_the_async_client_returns_the_same(web: Web, anole: Client, folder: Path) -> None:
    async def talk() -> tuple[Any, ...]:
        async with AsyncClient("http://127.0.0.1", transport=web.transport) as client:
            adapted = await client.adapt("line", folder)
            predicted = await client.predict("line", [PNG], version=1)
            return adapted, predicted, await client.versions("line"), await client.client("line")

    adapted, predicted, versions, info = web.portal.call(talk)
    assert (adapted.version, predicted.version) == (1, 1)
    assert versions == anole.versions("line")
    assert info == anole.client("line")


def test_the_async_client_retries_too() -> None:
    transport, seen = busy_then(1, lambda _: httpx.Response(200, json={"clients": []}))
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def talk() -> None:
        async with AsyncClient(transport=transport, sleep=sleep) as anole:
            assert await anole.clients() == []

    anyio.run(talk)
    assert (len(seen), slept) == (2, [3])


def test_both_clients_have_the_same_methods() -> None:
    blocking = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    coroutines = {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}
    assert blocking == coroutines


@pytest.mark.parametrize("key", ["a\nb", "\u00e4"])
def test_text_that_a_header_cannot_have_is_rejected_and_not_repeated(anole: Client, key: str, folder: Path) -> None:
    with pytest.raises(InvalidInput, match="X-API-Key") as caught:
        Client(key=key)
    assert key not in str(caught.value)
    with pytest.raises(InvalidInput, match="Idempotency-Key"):
        anole.adapt("line", folder, idempotency_key=key)


def test_names_that_are_not_text_are_rejected_before_sending(anole: Client) -> None:
    name = b"\xff".decode("utf-8", "surrogateescape")  # as Python decodes such an argument or file name
    with pytest.raises(InvalidInput, match="is not valid text"):
        anole.versions(name)
    with pytest.raises(InvalidInput, match="is not valid text"):
        anole.adapt("line", [LabelledFile(name, "1.png", PNG), LabelledFile("good", "2.png", PNG)])
    with pytest.raises(InvalidInput, match="is not valid text"):
        anole.adapt("line", [LabelledFile("bad", name, PNG), LabelledFile("good", "2.png", PNG)])


def test_importing_the_client_loads_its_schemas_and_nothing_of_the_server() -> None:
    script = "import service.client, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    first_party = {name for name in loaded if name.startswith(("service.", "models."))}
    allowed = ("service.client", "service.http.schemas")
    assert {name for name in first_party if not name.startswith(allowed)} == {"service.http", "models.errors"}
    assert not {"torch", "numpy", "fastapi", "starlette", "uvicorn", "sqlalchemy", "pydantic_settings"} & set(loaded)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"])
def test_requests_to_this_machine_ignore_the_proxy_of_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with Client(url) as anole, pytest.raises(ServiceUnreachable, match="cannot connect"):
            anole.clients()
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_proxy_that_cannot_be_used_is_an_error_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks9://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="proxy"):
        Client("http://anole.example")
    Client("http://127.0.0.1").close()


def test_settings_are_read_replaced_and_changed(anole: Client) -> None:
    assert anole.set_settings("line", ClientSettings(floor=0.7)).floor == 0.7
    assert anole.change_settings("line", {"keep_last": 3}).floor == 0.7
    assert anole.settings("line") == ClientSettings(floor=0.7, keep_last=3)


def test_a_service_that_is_not_ready_says_which_check_failed() -> None:
    body = {"status": "not ready", "checks": {"store": "failed"}}
    with Client(transport=httpx.MockTransport(lambda _: httpx.Response(503, json=body))) as anole:
        assert anole.readiness().checks == {"store": "failed"}


def test_models_versions_and_the_service_are_described(anole: Client, folder: Path) -> None:
    anole.adapt("line", folder)
    assert [sample.label for sample in anole.version("line", 1).sample_list] == ["bad", "good", "good"]
    names = [model.name for model in anole.models()]
    assert [anole.model(name).name for name in names] == names
    assert anole.service().access == "open"
    assert (anole.liveness().status, anole.readiness().status) == ("alive", "ready")
    assert "# HELP" in anole.metrics()
