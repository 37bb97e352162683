"""The Python client and the command line follow and cancel adaptations of a running service."""

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

from service.client import AdaptOptions, AsyncClient, Client, Job, ServiceProblem
from tests.e2e.conftest import ANOLE, ROOT, SAMPLES, STOP_LIMIT_S, Process, clean_environment, serving
from tests.generated import tiny_checkpoint_in

pytestmark = pytest.mark.slow

ENDLESS = AdaptOptions(steps=10_000)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("followed")
    with serving(folder / "data", tiny_checkpoint_in(folder), ANOLE_DEMO="false", ANOLE_MAX_STEPS="10000") as process:
        yield process


def test_progress_is_reported_while_steps_run_and_the_version_equals_a_blocking_call(service: Process) -> None:
    seen: list[Job] = []
    with Client(service.url) as anole:
        options = AdaptOptions(steps=250, seed=1, publish="always")
        followed = anole.adapt("followed", SAMPLES, options, on_progress=seen.append)
        assert followed.weights.digest == anole.adapt("plain", SAMPLES, options).weights.digest
    done = [job.steps.done for job in seen]
    assert done == sorted(done)
    assert len(set(done)) > 2
    assert seen[-1].steps.done == seen[-1].steps.of > 0
    assert seen[-1].steps.loss is not None


def test_an_exception_in_on_progress_cancels_the_job(service: Process) -> None:
    def stop_after_first(job: Job) -> None:
        if job.first is not None and job.steps.done:
            raise TimeoutError

    with Client(service.url) as anole:
        options = AdaptOptions(steps=10_000, first="prototypes", publish="always")
        with pytest.raises(TimeoutError) as caught:
            anole.adapt("ended", SAMPLES, options, on_progress=stop_after_first)
        assert [version.version for version in anole.versions("ended")] == [1]
    assert caught.value.__notes__[0].endswith("was cancelled and created no version; version 1, created first, is kept")


def test_cancelling_the_awaiting_task_cancels_the_job(service: Process) -> None:
    async def adapt() -> None:
        async with AsyncClient(service.url) as anole, anyio.create_task_group() as tasks:

            def stop_after_a_step(job: Job) -> None:
                if job.steps.done:
                    tasks.cancel_scope.cancel()

            await anole.adapt("awaited", SAMPLES, ENDLESS, on_progress=stop_after_a_step)

    anyio.run(adapt)
    with Client(service.url) as anole, pytest.raises(ServiceProblem, match="unknown_client"):
        anole.versions("awaited")


@pytest.fixture
def sigint_is_not_ignored() -> Iterator[None]:
    """Child processes inherit that a signal is ignored, as SIGINT is in the background jobs of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_an_interrupted_command_on_a_terminal_cancels_the_job(service: Process, tmp_path: Path) -> None:
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
        ending = threading.Timer(STOP_LIMIT_S, process.kill)  # bounds every wait below
        ending.start()
        shown = b""
        while b"interrupted: adapting" not in shown:
            shown += terminal.read(4096)  # fails once the command has ended
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal has closed
            while piece := terminal.read(4096):
                shown += piece
        assert process.wait(STOP_LIMIT_S) == 130, shown.decode(errors="replace")
        ending.cancel()
    assert b"was cancelled and created no version" in shown
