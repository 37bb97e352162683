"""The command `anole edge`: the agent on a device."""

from __future__ import annotations

import fcntl
import signal
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final

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
    poll_s: Annotated[float, typer.Option(min=1, help="Seconds between polls, on average.")] = 60.0,
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
    import uvicorn

    from service.edge.app import create_app

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidRequest(f"the address {listen!r} is not valid; allowed is HOST:PORT, for example 127.0.0.1:8100")
    agent = _agent(repository, data, channel, root, client or [])
    lock = _locked(data)
    agent.load()
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(agent, poll_s, reports, stop), name="poll", daemon=True)
    thread.start()
    if as_json:
        print_json({"url": f"http://{listen}", "repository": repository, "channel": channel, "data": data})
    notices().print(plain(f"anole edge follows {channel} of {repository} and listens on http://{listen}"))
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())  # uvicorn stops, and raises the signal again
    try:
        uvicorn.run(create_app(agent), host=host.strip("[]"), port=int(port), log_level="warning")
    finally:
        signal.signal(signal.SIGTERM, before)
        stop.set()
        thread.join(STOP_S)
        lock.close()


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
    client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=True)
    source = TrustedRepository(repository, data / "metadata", trusted.read_bytes(), client)
    return Agent(InstalledReleases(data), source, channel, clients)


def _locked(data: Path) -> IO[str]:
    """Hold the data folder until the file is closed. Raises InvalidSettings if another agent has it."""
    file = (data / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InvalidSettings(f"another agent uses {data}; stop it, or name another folder with --data") from error
    return file


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
