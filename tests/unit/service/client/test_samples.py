"""Both clients read stored samples of the real application in this process."""

from __future__ import annotations

import pytest

from service.client import AsyncClient, Client, requests
from tests.in_process import InProcess, Web
from tests.unit.service.http.routes.test_samples import page

DIGESTS = ["a" * 64, "b" * 64, "c" * 64]


def test_every_page_of_the_samples_is_read(
    two_versions: Web, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PAGE", 1)
    two_versions.services.samples.page_of = page(*DIGESTS)
    with Client(transport=in_process) as anole:
        samples = anole.samples("line", label="good", version=1)
    assert [sample.digest for sample in samples] == DIGESTS
    assert [(call["label"], call["version"]) for call in two_versions.services.samples.calls] == [("good", 1)] * 4


def test_a_picture_is_downloaded_whole_or_as_a_thumbnail(two_versions: Web, in_process: InProcess) -> None:
    digest = "d" * 64
    with Client(transport=in_process) as anole:
        assert anole.sample_png("line", digest) == f"{digest} None".encode()
        assert anole.sample_png("line", digest, side=32) == f"{digest} 32".encode()


def test_the_async_client_reads_every_page_too(two_versions: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PAGE", 1)
    two_versions.services.samples.page_of = page(*DIGESTS)

    async def use() -> None:
        async with AsyncClient(transport=two_versions.transport) as anole:
            assert [sample.digest for sample in await anole.samples("line")] == DIGESTS
            assert [version.version for version in await anole.versions("line")] == [1, 2]
            assert [client.client for client in await anole.clients()] == ["line"]
            assert len((await anole.history("line")).moves) == 2
            assert await anole.sample_png("line", "d" * 64, side=16) == f"{'d' * 64} 16".encode()

    two_versions.portal.call(use)


def test_corrections_are_sent_and_may_be_followed(two_versions: Web, in_process: InProcess) -> None:
    states: list[str] = []
    with Client(transport=in_process) as anole:
        corrected = anole.correct("line", relabel={"a" * 64: "good"}, remove={"b" * 64}, publish="always")
        followed = anole.correct("line", remove=["b" * 64], on_progress=lambda job: states.append(job.state))
    assert (corrected.version, followed.version, states[-1]) == (3, 4, "done")
    commands = two_versions.services.adaptation.commands[2:]
    assert [command.publish for command in commands] == ["always", "auto"]
    assert all(command.idempotency is not None for command in commands)
    assert commands[0].corrections is not None
    assert (commands[0].corrections.relabel, commands[0].corrections.remove) == ({"a" * 64: "good"}, {"b" * 64})


def test_the_async_client_sends_corrections_too(two_versions: Web) -> None:
    async def use() -> None:
        async with AsyncClient(transport=two_versions.transport) as anole:
            assert (await anole.correct("line", remove=["b" * 64])).version == 3

    two_versions.portal.call(use)
