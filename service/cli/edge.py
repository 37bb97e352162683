"""The command `anole edge`: the agent on a device."""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service.cli.console import AsJson, notices, plain, print_json
from service.cli.installation import require_agent
from service.cli.release import ChannelName
from service.errors import InvalidRequest, InvalidSettings
from service.settings import disable_onnxruntime_telemetry

if TYPE_CHECKING:
    from service.edge.agent import Agent

STOP_S: Final = 5.0
"""For a poll that is running. One that takes longer is repeated after the next start."""


def edge(
    repository: Annotated[str, typer.Option(metavar="URL", help="URL of the repository's folder.")],
    data: Annotated[Path, typer.Option(help="Folder for what the device installs.")],
    channel: ChannelName = "stable",
    root: Annotated[
        Path | None,
        typer.Option(
            help="First root of the repository, from its publisher; needed once.", show_default="DATA/root.json"
        ),
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(help="Client to predict for; repeat for more.", show_default="all of the channel"),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of /predict.")] = "127.0.0.1:8100",
    poll_s: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds between polls, on average.")] = 60.0,
    reports: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL", help="Where to put counts of verdicts, failures and seconds.", show_default="none"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict on a device with signed releases, and follow a channel. It needs no torch, database or service."""
    require_agent()
    disable_onnxruntime_telemetry()
    host, port = _address(listen)
    if not repository.startswith(("http://", "https://")):
        raise InvalidRequest(
            f"the repository {repository!r} is not a URL; deliver its folder with a web server, and name its http:// "
            "or https:// URL"
        )
    with _locked(data):
        with _usable(data):
            agent = _agent(repository, data, channel, root, client or [])
        agent.load()
        if as_json:
            print_json({"url": f"http://{listen}", "repository": repository, "channel": channel, "data": data})
        notices().print(plain(f"anole edge follows {channel} of {repository} and listens on http://{listen}"))
        _run(agent, (host, port), poll_s, reports)


def _run(agent: Agent, address: tuple[str, int], poll_s: float, reports: str | None) -> None:
    """Poll in a thread, and predict until a signal stops the process."""
    import uvicorn

    from service.edge.app import create_app

    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(agent, poll_s, reports, stop), name="poll", daemon=True)
    thread.start()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())  # uvicorn stops, and raises the signal again
    try:
        uvicorn.run(create_app(agent), host=address[0], port=address[1], log_level="warning")
    finally:
        signal.signal(signal.SIGTERM, before)
        stop.set()
        thread.join(STOP_S)


def _address(listen: str) -> tuple[str, int]:
    """Split HOST:PORT. Raises InvalidRequest if it is not of this form."""
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise InvalidRequest(
            f"the address {listen!r} is not valid; allowed is HOST:PORT with a port up to 65535, for example "
            "127.0.0.1:8100"
        )
    return host.strip("[]"), int(port)


def _agent(repository: str, data: Path, channel: str, root: Path | None, clients: list[str]) -> Agent:
    import httpx

    from models.atomic_files import write_atomically
    from service.edge.agent import Agent
    from service.edge.installed import InstalledReleases
    from service.edge.repository import TIMEOUT_S, TrustedRepository, root_version

    trusted = data / "root.json"
    if not trusted.is_file():
        if root is None or not root.is_file():
            raise InvalidSettings(
                f"the device does not know which keys to trust: {trusted} is missing; get metadata/1.root.json from "
                "the publisher of the repository, not from its web server, and name it once with --root"
            )
        root_version(root.read_bytes())
        write_atomically(trusted, root.read_bytes())
    elif root is not None and root.is_file() and root.read_bytes() != trusted.read_bytes():
        notices().print(
            plain(
                f"{root} is not used: the device trusts {trusted}, which differs, and the roots that follow it; to "
                f"trust {root} instead, delete {trusted} and {data / 'metadata'}, and start again"
            )
        )
    client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=True)
    source = TrustedRepository(repository, data / "metadata", trusted.read_bytes(), client)
    return Agent(InstalledReleases(data), source, channel, clients)


@contextmanager
def _usable(data: Path) -> Iterator[None]:
    """Raise InvalidSettings instead of the OSError of a folder that cannot be made, read or written."""
    try:
        yield
    except OSError as error:
        raise InvalidSettings(f"the folder {data} cannot be used: {error}; name another one with --data") from error


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the data folder. Raises InvalidSettings if another agent has it, or if it cannot be used."""
    with _usable(data):
        data.mkdir(parents=True, exist_ok=True)
        file = (data / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidSettings(f"another agent uses {data}; stop it, or name another folder with --data") from error
        yield


def _follow(agent: Agent, poll_s: float, reports: str | None, stop: threading.Event) -> None:
    import numpy as np

    from service.edge.agent import follow
    from service.edge.errors import EdgeError
    from service.edge.reports import report_of, send

    def report() -> None:
        if reports is None:
            return
        try:
            send(report_of(agent), reports)
        except EdgeError as error:
            notices().print(plain(str(error)))

    follow(agent, poll_s, stop, np.random.default_rng(), report)
