"""The use cases as a caller with some clients sees them: any other client is one that does not exist.

A name beyond the caller's reach is replaced, on its way in, by one that nobody has, and put back into the error on its
way out. So the answer to it is not made to look like that to a missing client: it is that answer, after the same work.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from service.domain.client import ClientSettings, ClientSummary
from service.domain.diff import VersionDiff
from service.domain.key import Caller
from service.domain.maintenance import Erasure
from service.domain.version import AliasMove, Version
from service.errors import UnknownClient
from service.http.ports import AdaptationPort, LifecyclePort, PredictionPort, Services
from service.runtime.job_control import JobControl
from service.usecases.adapt import AdaptCommand, AdaptOutcome
from service.usecases.checkpoints import CheckpointList
from service.usecases.keys import KeyCache
from service.usecases.predict import PredictOutcome
from service.usecases.readiness import Readiness
from service.usecases.uploads import Upload

T = TypeVar("T")


def bound(services: Services, caller: Caller) -> Services:
    """The services for that caller; they themselves where it can_access every client."""
    return services if caller.clients is None else BoundServices(services, Reach(caller))


@dataclass(frozen=True, slots=True)
class Reach:
    """Calls with a client's name, so that those of others end as with a missing one.

    Attributes:
        caller: who calls.
        nobody: a client name of 160 random bits, which therefore nobody has.
    """

    caller: Caller
    nobody: str = field(default_factory=lambda: secrets.token_hex(20))

    def call(self, client: str, use: Callable[[str], T]) -> T:
        """Call `use` with the client's name.

        Raises:
            UnknownClient: also where the client is another's.
        """
        if self.caller.can_access(client):
            return use(client)
        try:
            return use(self.nobody)
        except UnknownClient as error:
            raise self._of(client, error) from error

    def submit(self, client: str, use: Callable[[str], Future[T]]) -> Future[T]:
        """As `call`, for what is waited for elsewhere."""
        if self.caller.can_access(client):
            return use(client)
        answer: Future[T] = Future()

        def pass_on(done: Future[T]) -> None:
            error = done.exception()
            answer.set_exception(self._of(client, error) if isinstance(error, UnknownClient) else error)

        answer.set_running_or_notify_cancel()
        use(self.nobody).add_done_callback(pass_on)
        return answer

    def _of(self, client: str, error: UnknownClient) -> UnknownClient:
        return UnknownClient(str(error).replace(self.nobody, client))

    def insist(self, client: str, lifecycle: LifecyclePort) -> None:
        """Return where the client is the caller's own; for what makes the client if it is not there.

        Raises:
            UnknownClient: it is another's, or nobody's and would not be the caller's.
        """
        if not self.caller.can_access(client):
            self.call(client, lifecycle.client)
            raise UnknownClient(f"client {client!r} is not one of this key's")


class BoundAdaptation(AdaptationPort):
    """Adapts the caller's clients; it makes none of another name."""

    def __init__(self, services: Services, reach: Reach) -> None:
        self._services = services
        self._reach = reach

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """See `AdaptationPort.run`. Raises UnknownClient for a client beyond reach, there or not."""
        self._reach.insist(command.client, self._services.lifecycle)
        return self._services.adaptation.run(command)

    def submit(self, command: AdaptCommand, ticket: JobControl) -> Future[AdaptOutcome]:
        """See `AdaptationPort.submit`. Raises UnknownClient, at once, for a client beyond reach, there or not."""
        self._reach.insist(command.client, self._services.lifecycle)
        return self._services.adaptation.submit(command, ticket)


class BoundPrediction(PredictionPort):
    """Judges by the caller's clients."""

    def __init__(self, prediction: PredictionPort, reach: Reach) -> None:
        self._prediction = prediction
        self._reach = reach

    def run(self, client: str, uploads: Sequence[Upload], reference: str = "live") -> PredictOutcome:
        """See `PredictionPort.run`."""
        return self._reach.call(client, lambda name: self._prediction.run(name, uploads, reference))

    def submit(self, client: str, uploads: Sequence[Upload], reference: str = "live") -> Future[PredictOutcome]:
        """See `PredictionPort.submit`."""
        return self._reach.submit(client, lambda name: self._prediction.submit(name, uploads, reference))


class BoundLifecycle(LifecyclePort):
    """Reads and moves what the caller's clients have."""

    def __init__(self, lifecycle: LifecyclePort, reach: Reach) -> None:
        self._lifecycle = lifecycle
        self._reach = reach

    def clients(self) -> tuple[ClientSummary, ...]:
        """See `LifecyclePort.clients`; the caller's alone."""
        return tuple(summary for summary in self._lifecycle.clients() if self._reach.caller.can_access(summary.name))

    def client(self, client: str) -> ClientSummary:
        """See `LifecyclePort.client`."""
        return self._reach.call(client, self._lifecycle.client)

    def versions(self, client: str) -> tuple[Version, ...]:
        """See `LifecyclePort.versions`."""
        return self._reach.call(client, self._lifecycle.versions)

    def version(self, client: str, number: int) -> Version:
        """See `LifecyclePort.version`."""
        return self._reach.call(client, lambda name: self._lifecycle.version(name, number))

    def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """See `LifecyclePort.diff`."""
        return self._reach.call(client, lambda name: self._lifecycle.diff(name, before, after))

    def history(self, client: str, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """See `LifecyclePort.history`."""
        return self._reach.call(client, lambda name: self._lifecycle.history(name, at))

    def alias(self, client: str, alias: str) -> AliasMove:
        """See `LifecyclePort.alias`."""
        return self._reach.call(client, lambda name: self._lifecycle.alias(name, alias))

    def move_alias(self, client: str, alias: str, version: int, expected_revision: int | None) -> AliasMove:
        """See `LifecyclePort.move_alias`."""
        return self._reach.call(
            client, lambda name: self._lifecycle.move_alias(name, alias, version, expected_revision)
        )

    def rollback(self, client: str, alias: str = "live") -> AliasMove:
        """See `LifecyclePort.rollback`."""
        return self._reach.call(client, lambda name: self._lifecycle.rollback(name, alias))

    def delete_version(self, client: str, number: int) -> None:
        """See `LifecyclePort.delete_version`."""
        self._reach.call(client, lambda name: self._lifecycle.delete_version(name, number))

    def delete_client(self, client: str) -> Erasure:
        """See `LifecyclePort.delete_client`."""
        return self._reach.call(client, self._lifecycle.delete_client)

    def settings(self, client: str) -> ClientSettings:
        """See `LifecyclePort.settings`."""
        return self._reach.call(client, self._lifecycle.settings)

    def update_settings(self, client: str, settings: ClientSettings) -> ClientSettings:
        """See `LifecyclePort.update_settings`; makes no client of another name."""
        self._reach.insist(client, self._lifecycle)
        return self._lifecycle.update_settings(client, settings)

    def weights(self, client: str, number: int) -> bytes:
        """See `LifecyclePort.weights`."""
        return self._reach.call(client, lambda name: self._lifecycle.weights(name, number))


class BoundServices(Services):
    """The box of use cases, each bound."""

    def __init__(self, services: Services, reach: Reach) -> None:
        self._services = services
        self._reach = reach

    @property
    def adaptation(self) -> AdaptationPort:
        """Makes versions of the caller's clients."""
        return BoundAdaptation(self._services, self._reach)

    @property
    def prediction(self) -> PredictionPort:
        """Judges by the caller's clients."""
        return BoundPrediction(self._services.prediction, self._reach)

    @property
    def lifecycle(self) -> LifecyclePort:
        """Reads and moves what the caller's clients have."""
        return BoundLifecycle(self._services.lifecycle, self._reach)

    @property
    def meta_models(self) -> CheckpointList:
        """What there is to start from; nobody's own."""
        return self._services.meta_models

    @property
    def keys(self) -> KeyCache:
        """Who may call."""
        return self._services.keys

    @property
    def readiness(self) -> Readiness:
        """Whether this process may get requests."""
        return self._services.readiness
