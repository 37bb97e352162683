"""What the HTTP face needs of the rest, as Protocols: the use cases, and the box they come in."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Protocol

from service.domain.client import ClientSettings, ClientSummary
from service.domain.diff import VersionDiff
from service.domain.maintenance import Erasure
from service.domain.version import AliasMove, Version
from service.runtime.job_control import JobControl
from service.usecases.adapt import AdaptCommand, AdaptOutcome
from service.usecases.checkpoints import CheckpointList
from service.usecases.keys import KeyCache
from service.usecases.predict import PredictOutcome
from service.usecases.readiness import Readiness
from service.usecases.uploads import Upload


class AdaptationPort(Protocol):
    """Makes versions."""

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """Adapt, examine, store. Blocks."""
        ...

    def submit(self, command: AdaptCommand, ticket: JobControl) -> Future[AdaptOutcome]:
        """As `run`, in a thread of its own; cancelling what has not begun takes it back, the ticket stops the rest."""
        ...


class PredictionPort(Protocol):
    """Judges images."""

    def run(self, client: str, uploads: Sequence[Upload], reference: str = "live") -> PredictOutcome:
        """Judge images by the version that `reference` (an alias or a number) names. Blocks."""
        ...

    def submit(self, client: str, uploads: Sequence[Upload], reference: str = "live") -> Future[PredictOutcome]:
        """As `run`, in a thread of its own; cancelling what has not begun takes it back."""
        ...


class LifecyclePort(Protocol):
    """Reads and moves what is stored. Everything blocks, shortly."""

    def clients(self) -> tuple[ClientSummary, ...]:
        """All clients, by name."""
        ...

    def client(self, client: str) -> ClientSummary:
        """One client."""
        ...

    def versions(self, client: str) -> tuple[Version, ...]:
        """Versions not deleted, oldest first."""
        ...

    def version(self, client: str, number: int) -> Version:
        """One version."""
        ...

    def history(self, client: str, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """Alias moves, oldest first, with `at` only those made no later."""
        ...

    def alias(self, client: str, alias: str) -> AliasMove:
        """The latest move of an alias."""
        ...

    def move_alias(self, client: str, alias: str, version: int, expected_revision: int | None) -> AliasMove:
        """Point an alias at a version."""
        ...

    def rollback(self, client: str, alias: str = "live") -> AliasMove:
        """Point an alias at what it pointed at before."""
        ...

    def delete_version(self, client: str, number: int) -> None:
        """Let a version's samples and weights go."""
        ...

    def delete_client(self, client: str) -> Erasure:
        """Let everything of a client go."""
        ...

    def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """What changes from one version to another."""
        ...

    def settings(self, client: str) -> ClientSettings:
        """What a client chose."""
        ...

    def update_settings(self, client: str, settings: ClientSettings) -> ClientSettings:
        """Replace what a client chose."""
        ...

    def weights(self, client: str, number: int) -> bytes:
        """A version's weights as a safetensors file."""
        ...


class Services(Protocol):
    """The wired use cases."""

    @property
    def adaptation(self) -> AdaptationPort:
        """Makes versions."""
        ...

    @property
    def prediction(self) -> PredictionPort:
        """Judges images."""
        ...

    @property
    def lifecycle(self) -> LifecyclePort:
        """Reads and moves what is stored."""
        ...

    @property
    def meta_models(self) -> CheckpointList:
        """What there is to start from."""
        ...

    @property
    def keys(self) -> KeyCache:
        """Who may call."""
        ...

    @property
    def readiness(self) -> Readiness:
        """Whether this process may get requests."""
        ...
