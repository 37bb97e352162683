"""More files than one request may have are sent in several requests."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import AdaptOptions, AsyncClient, Client, InvalidInput, LabelledFile, ServiceProblem
from service.client.batches import DEFAULT_LIMITS, split, split_images, split_samples
from service.client.files import list_images
from service.errors import StoreFull
from service.usecases.explain import MAX_EXPLAINED
from tests.in_process import InProcess, Web

PNG = b"\x89PNG"
MAX_FILES = 8
"""Files in one request to the service of the fixture `web`."""


def samples(*counts: int) -> list[LabelledFile]:
    """Return different images of classes with so many images each."""
    names = itertools.count()
    return [
        LabelledFile(f"class-{label}", f"{label}-{index}.png", PNG + str(next(names)).encode(), f"part-{index}")
        for label, count in enumerate(counts)
        for index in range(count)
    ]


@pytest.fixture
def anole(in_process: InProcess) -> Any:
    with Client("http://127.0.0.1", transport=in_process) as client:
        yield client


def test_many_images_are_predicted_in_order_by_the_version_of_the_first_request(anole: Client, web: Web) -> None:
    anole.adapt("line", samples(1, 1))
    images = [PNG + bytes([index]) for index in range(70)]
    predicted = anole.predict("line", images)
    calls = web.services.prediction.calls
    assert [image.name for image in predicted.predictions] == [f"image-{index}" for index in range(70)]
    assert [upload.content for _, uploads, _ in calls for upload in uploads] == images
    assert [len(uploads) for _, uploads, _ in calls] == [MAX_FILES] * 8 + [6]
    assert [reference for *_, reference in calls] == ["live"] + ["1"] * 8


def test_a_file_that_cannot_be_read_is_found_before_anything_is_sent(anole: Client, web: Web, tmp_path: Path) -> None:
    image = tmp_path / "1.png"
    image.write_bytes(PNG)
    with pytest.raises(InvalidInput, match="cannot read"):
        anole.predict("line", [*[image] * 80, tmp_path / "none.png"])
    assert web.services.prediction.calls == []


def test_many_samples_make_versions_that_extend_each_other_and_only_the_last_may_go_live(
    anole: Client, web: Web
) -> None:
    sent = samples(60, 5, 5)
    options = AdaptOptions(steps=7, seed=3, publish="always")
    adapted = anole.adapt("line", sent, options, idempotency_key="once")
    commands = web.services.adaptation.commands
    assert (adapted.version, adapted.published, adapted.live) == (9, True, 9)
    assert [command.publish for command in commands] == ["never"] * 8 + ["always"]
    assert [command.steps for command in commands] == [0] * 8 + [7]
    assert {(command.mode, command.seed) for command in commands} == {("extend", 3)}
    assert set(commands[0].labels) == {"class-0", "class-1", "class-2"}
    received = [
        (label, upload.name, upload.content, part)
        for command in commands
        for label, upload, part in zip(command.labels, command.uploads, command.parts, strict=True)
    ]
    assert sorted(received) == sorted((file.label, file.name, file.content, file.part) for file in sent)
    assert [command.idempotency.key for command in commands] == [f"once.{index}" for index in range(1, 9)] + ["once"]


def test_the_report_of_the_last_version_has_the_notes_about_all_requests(anole: Client, web: Web) -> None:
    numbers = itertools.count(1)

    def note() -> None:
        web.services.adaptation.notes = [f"note {next(numbers)}"]

    web.services.adaptation.before = note
    gate = anole.adapt("line", samples(60, 5)).report.gate
    assert gate.notes == ["note 9", *(f"version {number}: note {number}" for number in range(1, 9))]
    assert gate.reasons == ["every sample is named right", *gate.notes]
    assert [detail.text for detail in gate.details] == gate.reasons


def test_the_limits_are_those_of_the_service(anole: Client, web: Web) -> None:
    anole.adapt("line", samples(33, 32))
    assert {len(command.labels) for command in web.services.adaptation.commands} == {MAX_FILES, 1}


def test_samples_that_fit_are_sent_in_one_request_in_their_order(anole: Client, web: Web) -> None:
    anole.adapt("line", samples(5, 3), AdaptOptions(mode="replace"))
    (command,) = web.services.adaptation.commands
    assert command.labels == ("class-0",) * 5 + ("class-1",) * 3


def test_replacing_needs_one_request(anole: Client, web: Web) -> None:
    with pytest.raises(InvalidInput, match="mode=replace needs them all in one; raise ANOLE_MAX_FILES"):
        anole.adapt("line", samples(40, 40), AdaptOptions(mode="replace"))
    assert web.services.adaptation.commands == []


def test_one_picture_with_two_labels_is_found_across_requests(anole: Client, web: Web) -> None:
    first, *others = samples(40, 40)
    again = LabelledFile("class-1", "again.png", first.content)
    with pytest.raises(InvalidInput, match=r"'0-0.png' .* 'class-0' and 'again.png' .* 'class-1' are the same picture"):
        anole.adapt("line", [first, *others, again])
    assert web.services.adaptation.commands == []


def test_if_a_later_request_fails_the_error_names_the_versions_that_exist(anole: Client, web: Web) -> None:
    def fail_third() -> None:
        if len(web.services.adaptation.commands) == 3:
            raise StoreFull("the disk is full")

    web.services.adaptation.before = fail_third
    with pytest.raises(ServiceProblem) as caught:
        anole.adapt("line", samples(40, 40), AdaptOptions(publish="always"))
    assert caught.value.__notes__[0].startswith("version 1 and 2 of line, not live, has the samples")


def test_the_async_client_splits_too(web: Web) -> None:
    async def talk() -> tuple[int, int]:
        async with AsyncClient("http://127.0.0.1", transport=web.transport) as client:
            adapted = await client.adapt("line", samples(40, 40))
            predicted = await client.predict("line", [PNG] * 70)
            return adapted.version, len(predicted.predictions)

    assert web.portal.call(talk) == (10, 70)


def test_a_service_that_reports_no_limits_has_the_default_ones() -> None:
    sizes: list[int] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/":
            names = ("service", "version", "docs", "openapi", "clients")
            return httpx.Response(200, json={**dict.fromkeys(names, "x"), "access": "open"})
        sizes.append(request.content.count(b'name="images"'))
        empty = {"client": "line", "version": 1, "weights_digest": "", "predictions": [], "seconds": 0.5}
        return httpx.Response(200, json=empty)

    with Client(transport=httpx.MockTransport(respond)) as anole:
        assert anole.predict("line", [PNG] * 150).seconds == 1.5
    assert sizes == [64, 64, 22]


def test_files_are_split_by_number_and_by_size() -> None:
    mebibyte = 1024 * 1024
    assert split([1] * 5, 2, mebibyte) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert split([mebibyte // 2] * 3, 64, mebibyte) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert split([10, 9 * mebibyte, 10], 64, mebibyte) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert split([mebibyte // 4] * 6, 64, mebibyte) == [slice(0, 3), slice(3, 6)]


def test_requests_for_explanations_have_as_many_images_as_the_service_explains() -> None:
    groups = split_images(list_images([PNG] * (2 * MAX_EXPLAINED + 1)), DEFAULT_LIMITS, explain=True)
    assert [len(group) for group in groups] == [MAX_EXPLAINED, MAX_EXPLAINED, 1]


def test_every_class_is_in_the_first_group() -> None:
    groups = split_samples(samples(1000, 1, 3), DEFAULT_LIMITS)
    assert {sample.label for sample in groups[0]} == {"class-0", "class-1", "class-2"}
    assert sum(map(len, groups)) == 1004
