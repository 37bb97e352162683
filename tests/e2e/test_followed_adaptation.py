"""The Python client and the command line follow adaptations of a service over a real line, and end them."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from service.client.client import AdaptOptions, AdaptProgress, AsyncClient, Client, ServiceProblem
from tests.e2e.conftest import ROOT, STOP_LIMIT_S, clean_environment
from tests.e2e.test_service_process import ANOLE, SAMPLES, Process, serving
from tests.generated import tiny_checkpoint_in

pytestmark = pytest.mark.slow

ENDLESS = AdaptOptions(steps=10_000)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("followed")
    with serving(folder / "data", tiny_checkpoint_in(folder), ANOLE_DEMO="false", ANOLE_MAX_STEPS="10000") as process:
        yield process


def test_its_steps_are_told_while_they_are_done_and_the_version_is_the_plain_calls(service: Process) -> None:
    told: list[AdaptProgress] = []
    with Client(service.url) as anole:
        options = AdaptOptions(steps=500, seed=1, publish="always")
        followed = anole.adapt("followed", SAMPLES, options, told=told.append)
        assert followed.weights_digest == anole.adapt("plain", SAMPLES, options).weights_digest
    done = [progress.steps_done for progress in told]
    assert done == sorted(done)
    assert len(set(done)) > 2
    assert told[-1].steps_done == told[-1].steps > 0
    assert told[-1].loss is not None


def test_what_is_raised_by_who_is_told_ends_the_job(service: Process) -> None:
    def enough(progress: AdaptProgress) -> None:
        if progress.first is not None and progress.steps_done:
            raise TimeoutError

    with Client(service.url) as anole:
        options = AdaptOptions(steps=10_000, first="prototypes", publish="always")
        with pytest.raises(TimeoutError) as caught:
            anole.adapt("ended", SAMPLES, options, told=enough)
        assert [version.version for version in anole.versions("ended")] == [1]
    assert caught.value.__notes__[0].endswith("was cancelled, and made no version after its first, 1, which stays")


def test_cancelling_who_awaits_ends_the_job(service: Process) -> None:
    async def talk() -> None:
        async with AsyncClient(service.url) as anole, anyio.create_task_group() as tasks:

            def told(progress: AdaptProgress) -> None:
                if progress.steps_done:
                    tasks.cancel_scope.cancel()

            await anole.adapt("awaited", SAMPLES, ENDLESS, told=told)

    anyio.run(talk)
    with Client(service.url) as anole, pytest.raises(ServiceProblem, match="unknown_client"):
        anole.versions("awaited")


def test_an_interrupted_command_on_a_terminal_cancels_and_says_so(service: Process, tmp_path: Path) -> None:
    for sample in SAMPLES:
        (tmp_path / sample.label).mkdir(exist_ok=True)
        (tmp_path / sample.label / sample.name).write_bytes(sample.content)
    command = [str(ANOLE), "adapt", "interrupted", str(tmp_path), "--steps", "10000", "--url", service.url]
    ours, theirs = pty.openpty()
    environment = {**clean_environment(), "TERM": "xterm", "COLUMNS": "200"}
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs) as process,
    ):
        os.close(theirs)
        ending = threading.Timer(STOP_LIMIT_S, process.kill)  # so that nothing is waited for without end
        ending.start()
        shown = b""
        while b"interrupted adapts" not in shown:
            shown += terminal.read(4096)  # fails once the command has ended
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # how the end of a terminal shows
            while piece := terminal.read(4096):
                shown += piece
        assert process.wait(STOP_LIMIT_S) == 130
        ending.cancel()
    assert b"was cancelled, and made no version" in shown
