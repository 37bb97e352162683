"""A repository of releases and devices that follow it, in this process and without sockets."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import torch
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from models.checkpoint import load_checkpoint
from service import bootstrap
from service.edge.agent import Agent
from service.edge.app import create_app
from service.edge.bundle import Release, Start
from service.edge.installed import InstalledReleases
from service.edge.repository import TrustedRepository
from service.edge.rings import Rollout
from service.fleet.release import build_release, build_start
from service.fleet.repository import SignedRepository, Validity
from service.fleet.rollout import Fleet
from service.fleet.signing import KeyFolder, Threshold
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.settings import Settings, load_settings
from service.store.open_store import StoreLocation, open_store
from tests.integration.test_prediction_independence import command

URL = "http://updates.test"
CLIENT = "line-7"


@dataclass
class WebServer:
    """Delivers a folder, as an attacker or a broken disk may change it.

    Attributes:
        folder: of the repository.
        replaced: content to deliver instead, by path; None is a 404.
        requested: paths so far, with the status.
        error: what every request raises, if it is not None.
    """

    folder: Path
    replaced: dict[str, bytes | None] = field(default_factory=dict)
    requested: list[tuple[str, int]] = field(default_factory=list)
    error: Exception | None = None

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self._respond))

    def path_of(self, ending: str) -> str:
        """The only path of the repository that ends like this."""
        (found,) = [path for path in self.folder.rglob("*") if path.name.endswith(ending)]
        return found.relative_to(self.folder).as_posix()

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if self.error is not None:
            raise self.error
        path = request.url.path.lstrip("/")
        response = self._response(request, path)
        self.requested.append((path, response.status_code))
        return response

    def _response(self, request: httpx.Request, path: str) -> httpx.Response:
        file = self.folder / path
        content = self.replaced[path] if path in self.replaced else file.read_bytes() if file.is_file() else None
        if content is None:
            return httpx.Response(404)
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == etag:
            return httpx.Response(304, headers={"etag": etag})
        return httpx.Response(200, headers={"etag": etag}, content=content)


@dataclass(frozen=True)
class Files:
    """A start and two releases of the client, ready to be published."""

    start: Start
    releases: dict[int, Release]


def files_of(settings: Settings) -> Files:
    """Build the files of the client's versions 1 and 2."""
    checkpoint = load_checkpoint(settings.model[0])
    loaded = LoadedCheckpoint(checkpoint, torch.device("cpu"))
    with open_store(StoreLocation.of(settings), missing="reject") as store:
        releases = {number: build_release(store, store.catalog.version(CLIENT, number), loaded) for number in (1, 2)}
    loaded.close()
    return Files(build_start(checkpoint), releases)


def adapted_settings(folder: Path, model: str, versions: int = 2) -> Settings:
    """Adapt versions of the client from a shipped checkpoint. Returns the settings of the store."""
    settings = load_settings(data=folder / "data", model=model, device="cpu", demo=False, decoder_processes=0)
    services = bootstrap.build(settings)
    for seed in range(versions):
        services.adaptation.run(command(CLIENT, (6, 20), seed))
    services.close()
    return settings


@dataclass
class Publisher:
    """A repository and its keys."""

    files: Files
    repository: SignedRepository
    keys: KeyFolder

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.repository)

    def signer(self, role: str) -> CryptoSigner:
        """The first key of a role."""
        root = Metadata[Root].from_file(str(self.repository.root_path())).signed
        return self.keys.signers(role, root.roles[role].keyids, 1)[0]

    def release(self, version: int, percent: int = 100, **changes: Any) -> Rollout:
        """Publish a version; `changes` are fields of its description."""
        made = self.files.releases[version]
        info = made.info.model_copy(update=changes)
        return self.fleet.publish("stable", Release(info, made.weights, made.smoke), self.files.start, percent)


def publisher_in(folder: Path, files: Files, validity: Validity | None = None) -> Publisher:
    """Create a repository whose root needs two of three keys."""
    keys = KeyFolder(folder / "keys")
    repository = SignedRepository(folder / "repository", keys, validity)
    repository.create({"root": Threshold(2, 3)})
    return Publisher(files, repository, keys)


@dataclass
class Device:
    """A device: its folder, its agent and the web server that it asks."""

    folder: Path
    server: WebServer
    root: bytes

    def __post_init__(self) -> None:
        self.now = datetime.now(UTC)
        self.restart()

    def restart(self) -> None:
        """Start the agent again with what is on the disk."""
        source = TrustedRepository(URL, self.folder / "metadata", self.root, self.server.client())
        self.agent = Agent(InstalledReleases(self.folder, lambda: self.now), source, "stable")
        self.agent.load()

    def runs(self) -> int | None:
        """The version that predicts."""
        summary = self.agent.summary()
        return summary[CLIENT][0].info.version if CLIENT in summary else None


def device_of(repository: SignedRepository, folder: Path) -> Device:
    """A new device that trusts the first root of the repository."""
    return Device(folder, WebServer(repository.folder), repository.root_path().read_bytes())


class EdgeWeb:
    """Calls the application of an agent."""

    def __init__(self, agent: Agent) -> None:
        self._transport = httpx.ASGITransport(create_app(agent), raise_app_exceptions=False)

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._call("GET", path, {}))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._call("POST", path, options))

    async def _call(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://127.0.0.1") as http:
            return await http.request(method, path, **options)
