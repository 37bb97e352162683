"""Fake use cases that keep everything in dictionaries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from models.errors import ImageFormatUnsupported
from service.bootstrap import Services
from service.domain.audit import AuditEntry, AuditQuery
from service.domain.client import ClientSettings, ClientSummary
from service.domain.diff import VersionDiff, compare
from service.domain.drift import Expectation, Period
from service.domain.job import JobVersion
from service.domain.key import KeyRecord
from service.domain.prediction import Explanation, ImagePrediction
from service.domain.prediction_log import Comparison, LoggedPrediction, PredictionQuery
from service.domain.version import (
    CANDIDATE,
    LIVE,
    AliasMove,
    ExpectedRevision,
    Publication,
    SampleRef,
    ServedVersion,
    Version,
    VersionDraft,
    VersionSummary,
)
from service.errors import (
    AliasConflict,
    NothingLive,
    NothingToRollBackTo,
    NothingToUpgrade,
    UnknownAlias,
    UnknownClient,
    UnknownSample,
    UnknownVersion,
)
from service.runtime.adapt_queue import JobControl
from service.runtime.decoder import Upload
from service.store.maintenance import Erasure
from service.store.ports import Keys
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from service.usecases.checkpoints import CheckpointList, CheckpointSummary
from service.usecases.clients import Clients
from service.usecases.explain import ExplainedPrediction
from service.usecases.idempotency import IdempotentAdaptation
from service.usecases.jobs import Jobs
from service.usecases.judged import DriftReport, Judged, ShadowReport
from service.usecases.keys import KeyCache
from service.usecases.predict import PredictCommand, Prediction, PredictOutcome
from service.usecases.readiness import Readiness
from service.usecases.recording import Origin, PredictionRecorder
from service.usecases.stored_samples import SamplePage, StoredSamples
from tests.unit.service.fake_exports import FakeExports, FakeImports
from tests.unit.service.fake_jobs import MemoryJobs

T = TypeVar("T")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PNG = b"\x89PNG not looked at by fakes"


def report(decision: str = "publish", notes: Sequence[str] = ()) -> dict[str, Any]:
    reasons = ["every sample is named right", *notes]
    details = [{"code": "repeated_files", "text": text, "values": {"copies": 1, "files": 2}} for text in reasons]
    return {
        "support_accuracy": 1.0,
        "estimated_accuracy": None,
        "interval": None,
        "temperature": None,
        "unknown_threshold": None,
        "loss_curve": [1.5, 0.5],
        "suspects": None,
        "gate": {"decision": decision, "reasons": reasons, "notes": list(notes), "details": details},
        "seconds": {"decode": 0.01, "adapt": 0.2, "examine": 0.0, "store": 0.01, "total": 0.22},
    }


class FakeClients(Clients):
    """Keeps clients in dictionaries. The clock advances by a minute with each move of an alias."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[int, Version]] = {}
        self.moves: dict[str, list[AliasMove]] = {}
        self.chosen: dict[str, ClientSettings] = {}

    def add(self, draft: VersionDraft, aliases: Sequence[str]) -> Version:
        versions = self.kept.setdefault(draft.client, {})
        self.moves.setdefault(draft.client, [])
        version = Version(len(versions) + 1, NOON, draft)
        versions[version.number] = version
        for alias in aliases:
            self._move(draft.client, alias, version.number, "adapt")
        return version

    def publication(self, client: str, made: JobVersion) -> Publication:
        moves = [move for move in self.moves[client] if (move.version, move.reason) == (made.number, "adapt")]
        return Publication(self.version(client, made.number), tuple(moves), made.live)

    def _of(self, client: str) -> dict[int, Version]:
        if client not in self.kept:
            raise UnknownClient(client)
        return self.kept[client]

    def _move(self, client: str, alias: str, version: int, reason: str) -> AliasMove:
        before = [move for move in self.moves[client] if move.alias == alias]
        moved_at = NOON + timedelta(minutes=len(self.moves[client]))
        previous = before[-1].version if before else None
        move = AliasMove(client, alias, len(before) + 1, version, previous, moved_at, reason)
        self.moves[client].append(move)
        return move

    def list(
        self, names: Collection[str] | None = None, after: str = "", limit: int | None = None
    ) -> tuple[ClientSummary, ...]:
        found = [name for name in sorted(self.kept) if name > after and (names is None or name in names)]
        return tuple(self.get(name) for name in found[:limit])

    def get(self, client: str) -> ClientSummary:
        versions = self._of(client)
        aliases = {move.alias: move for move in self.moves.get(client, [])}
        return ClientSummary(client, NOON, len(versions), max(versions, default=0), aliases)

    def created_at(self, client: str) -> datetime | None:
        return NOON if client in self.kept else None

    def versions(self, client: str, after: int = 0, limit: int = 1000) -> Sequence[VersionSummary]:
        found = [version for number, version in self._of(client).items() if number > after]
        return [VersionSummary.of(version) for version in found[:limit]]

    def version(self, client: str, number: int) -> Version:
        versions = self._of(client)
        if number not in versions:
            raise UnknownVersion(f"client {client!r} has no version {number}")
        return versions[number]

    def history(
        self, client: str, at: datetime | None = None, after: int = 0, limit: int | None = None
    ) -> tuple[AliasMove, ...]:
        self._of(client)
        moves = [move for move in self.moves[client] if at is None or move.moved_at <= at]
        return tuple(moves[after : None if limit is None else after + limit])

    def alias(self, client: str, alias: str) -> AliasMove:
        self._of(client)
        moves = [move for move in self.moves[client] if move.alias == alias]
        if not moves:
            raise UnknownAlias(f"client {client!r} has no alias {alias!r}")
        return moves[-1]

    def move_alias(self, client: str, alias: str, version: int, expected_revision: ExpectedRevision) -> AliasMove:
        self.version(client, version)
        revision = sum(move.alias == alias for move in self.moves[client])
        if expected_revision not in {None, revision}:
            raise AliasConflict(f"alias {alias!r} is at revision {revision}, not {expected_revision}")
        return self._move(client, alias, version, "set")

    def rollback(self, client: str, alias: str = LIVE, expected_revision: ExpectedRevision = None) -> AliasMove:
        current = self.alias(client, alias)
        if expected_revision not in {None, current.revision}:
            raise AliasConflict(f"alias {alias!r} is at revision {current.revision}, not {expected_revision}")
        if current.previous is None:
            raise NothingToRollBackTo(f"alias {alias!r} of client {client!r} has no earlier version")
        return self._move(client, alias, current.previous, "rollback")

    def promote(self, client: str, expected_revision: ExpectedRevision = None) -> AliasMove:
        candidate, live = self.alias(client, CANDIDATE).version, self.alias(client, LIVE)
        return live if live.version == candidate else self._move(client, LIVE, candidate, "promote")

    def diff(self, client: str, before: int, after: int) -> VersionDiff:
        return compare(self.version(client, before), self.version(client, after))

    def delete_version(self, client: str, number: int) -> None:
        self.version(client, number)
        del self.kept[client][number]

    def delete(self, client: str) -> Erasure:
        versions = len(self._of(client))
        del self.kept[client]
        return Erasure(client, versions, 3 * versions, 100 * versions)

    def settings(self, client: str) -> ClientSettings:
        self._of(client)
        return self.chosen.get(client, ClientSettings())

    def update_settings(self, client: str, settings: ClientSettings) -> ClientSettings:
        self.kept.setdefault(client, {})
        self.chosen[client] = settings
        return settings

    def change_settings(self, client: str, changes: Mapping[str, Any]) -> ClientSettings:
        return self.update_settings(client, replace(self.settings(client), **changes))

    def weights(self, client: str, number: int) -> bytes:
        self.version(client, number)
        return b"safetensors"


class FakeSamples(StoredSamples):
    """The samples that a test sets, for every client. A picture is the digest and the side."""

    def __init__(self, clients: FakeClients) -> None:
        self.clients = clients
        self.calls: list[dict[str, Any]] = []
        self.page_of: SamplePage | None = None

    def page(self, client: str, **query: Any) -> SamplePage:
        self.clients.get(client)
        self.calls.append(query)
        if self.page_of is None:
            return SamplePage(None, ())
        found = [
            each
            for each in self.page_of.samples
            if each.sample.digest > query["after"] and query["label"] in {None, each.sample.label}
        ]
        return replace(self.page_of, samples=found[: query["limit"]])

    def check(self, client: str, digest: str) -> None:
        self.clients.get(client)
        listed = {each.sample.digest for each in self.page_of.samples} if self.page_of is not None else set()
        if set(digest) != {"d"} and digest not in listed:
            raise UnknownSample(f"client {client!r} has no stored sample {digest!r}")

    def picture(self, client: str, digest: str, max_side: int | None = None) -> bytes:
        self.check(client, digest)
        return f"{digest} {max_side}".encode()


class FakeAdaptation(IdempotentAdaptation):
    """Creates a version from every command, or raises the error that a test sets."""

    def __init__(self, clients: FakeClients, jobs: Jobs | None = None) -> None:
        self.clients = clients
        self.jobs = jobs
        self.commands: list[AdaptCommand] = []
        self.controls: list[JobControl] = []
        self.raises: Exception | None = None
        self.decision = "publish"
        self.before: Callable[[], None] = lambda: None
        self.notes: list[str] = []

    def submit(self, command: AdaptCommand, control: JobControl) -> Future[AdaptOutcome]:
        self.controls.append(control)
        if command.job is None or self.jobs is None:
            return in_a_thread(lambda: self.run(command))
        self.jobs.add(command.job, command.client, None, control)
        work = in_a_thread(lambda: self.run(command))
        self.jobs.started(command.job, work)
        return work

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        self.commands.append(command)
        self.before()
        if self.raises is not None:
            raise self.raises
        if command.mode == "upgrade":
            return self._upgrade(command)
        if command.mode == "correct":
            return self._correct(command)
        samples = tuple(
            SampleRef("d" * 64, label, upload.name)
            for upload, label in zip(command.uploads, command.labels, strict=True)
        )
        draft = VersionDraft(
            client=command.client,
            parent=None,
            classes=tuple(sorted(set(command.labels))),
            samples=samples,
            meta_model="tiny",
            meta_model_digest="a" * 64,
            recipe={"steps": 5},
            seed=command.seed or 0,
            weights_digest="b" * 64,
            weights_bytes=1234,
            device="cpu",
            batched_with=0,
            report=report(self.decision, self.notes),
        )
        publishes = self._publishes(command)
        version = self.clients.add(draft, [LIVE] if publishes else [])
        live = self.clients.get(command.client).aliases.get(LIVE)
        return AdaptOutcome(version=version, published=publishes, live=None if live is None else live.version)

    def _publishes(self, command: AdaptCommand) -> bool:
        return command.publish == "always" or (command.publish != "never" and self.decision == "publish")

    def _correct(self, command: AdaptCommand) -> AdaptOutcome:
        """Make a version like the newest one, without any correction."""
        self.clients.get(command.client)
        earlier = list(self.clients.kept[command.client].values())[-1]
        version = self.clients.add(replace(earlier.draft, parent=earlier.number), [LIVE])
        return AdaptOutcome(version, True, version.number, earlier)

    def _upgrade(self, command: AdaptCommand) -> AdaptOutcome:
        """Make a version of the model `larger` from the newest one."""
        earlier = list(self.clients.kept[command.client].values())[-1] if command.client in self.clients.kept else None
        if earlier is None:
            raise UnknownClient(command.client)
        if earlier.draft.meta_model == "larger":
            raise NothingToUpgrade(f"version {earlier.number} was adapted from 'larger' already; set another model")
        better = {**report(self.decision), "estimated_accuracy": 0.9, "interval": (0.8, 1.0)}
        draft = replace(earlier.draft, parent=earlier.number, meta_model="larger", report=better)
        publishes = self._publishes(command)
        version = self.clients.add(draft, [LIVE] if publishes else [])
        return AdaptOutcome(version, publishes, self.clients.get(command.client).live, earlier)


def in_a_thread(call: Callable[[], T]) -> Future[T]:
    """Start a call in a new thread and return its result as a future."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - the future passes the error on
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


class FakePrediction(Prediction):
    """Predicts the first class for every image, or raises the error that a test sets."""

    def __init__(self, clients: FakeClients) -> None:
        self.clients = clients
        self.calls: list[tuple[str, tuple[Upload, ...], str]] = []
        self.raises: Exception | None = None

    def submit(
        self, client: str, uploads: Sequence[Upload], reference: str = LIVE, caller: str = ""
    ) -> Future[PredictOutcome]:
        return in_a_thread(lambda: self.run(client, uploads, reference))

    def run(self, client: str, uploads: Sequence[Upload], reference: str = LIVE) -> PredictOutcome:
        self.calls.append((client, tuple(uploads), reference))
        if self.raises is not None:
            raise self.raises
        if reference.isdigit():
            number = int(reference)
        elif reference == LIVE and LIVE not in self.clients.get(client).aliases:
            raise NothingLive(f"no version of client {client!r} is live")
        else:
            number = self.clients.alias(client, reference).version
        draft = self.clients.version(client, number).draft
        for upload in uploads:
            if not upload.content.startswith(b"\x89PNG"):
                raise ImageFormatUnsupported(f"{upload.name}: no image of a known format")
        scores = {name: 1.0 / len(draft.classes) for name in draft.classes}
        predictions = tuple(
            ImagePrediction(upload.name, draft.classes[0], scores[draft.classes[0]], scores, 0.5, 0.75)
            for upload in uploads
        )
        served = ServedVersion(
            client, number, draft.classes, draft.meta_model, draft.meta_model_digest, draft.weights_digest, None
        )
        command = PredictCommand(client, tuple(uploads), reference, Future())
        return PredictOutcome(served, predictions, 0.001, command)


class FakeExplained(ExplainedPrediction):
    """Explains every prediction of `FakePrediction` by a map of two cells."""

    def __init__(self, prediction: FakePrediction) -> None:
        self.prediction = prediction

    def submit(
        self, client: str, uploads: Sequence[Upload], reference: str = LIVE, caller: str = ""
    ) -> Future[PredictOutcome]:
        return in_a_thread(lambda: self._run(client, uploads, reference))

    def _run(self, client: str, uploads: Sequence[Upload], reference: str) -> PredictOutcome:
        outcome = self.prediction.run(client, uploads, reference)
        places = Explanation(1, 2, [[0.25, 1.0]])
        return replace(outcome, predictions=tuple(replace(each, explanation=places) for each in outcome.predictions))


class FakeJudged(Judged):
    """The logged predictions that a test sets, newest first, for every client."""

    def __init__(self, clients: FakeClients) -> None:
        self.clients = clients
        self.logged: list[LoggedPrediction] = []
        self.queries: list[PredictionQuery] = []

    def predictions(self, client: str, query: PredictionQuery) -> tuple[LoggedPrediction, ...]:
        self.clients.get(client)
        self.queries.append(query)
        found = [each for each in self.logged if query.after is None or each.id < query.after]
        return tuple(found[: query.limit])

    def shadow(
        self, client: str, version: int, candidate: int, after: int | None = None, limit: int = 1000
    ) -> ShadowReport:
        self.clients.version(client, version)
        changed = self.predictions(client, PredictionQuery(changed=True, after=after, limit=limit))
        return ShadowReport(Comparison(4, 3, 2, 1), (0.2, 0.9), changed)

    def drift_of(self, clients: Collection[str]) -> Mapping[str, bool]:
        return {client: client == "line" for client in clients if client != "quiet"}

    def drift(self, client: str, hours: int = 24) -> DriftReport:
        total = Period(NOON, 100, 40, 2.0)
        return DriftReport(self.clients.alias(client, LIVE).version, Expectation(0.1, 0.25), total, (total,))


class FakeRecorder(PredictionRecorder):
    """Keeps where the images came from."""

    def __init__(self) -> None:
        self.origins: list[Origin] = []

    def record(self, outcome: PredictOutcome, origin: Origin) -> None:
        self.origins.append(origin)


class FakeKeys(Keys):
    """Keeps records in a list. Reading raises the error that a test sets."""

    def __init__(self) -> None:
        self.kept: list[KeyRecord] = []
        self.raises: Exception | None = None
        self.reads = 0

    def add(self, record: KeyRecord) -> None:
        self.kept.append(record)

    def all(self) -> tuple[KeyRecord, ...]:
        self.reads += 1
        if self.raises is not None:
            raise self.raises
        return tuple(self.kept)

    def revoke(self, prefix: str) -> KeyRecord:
        index = [record.prefix for record in self.kept].index(prefix)
        self.kept[index] = replace(self.kept[index], revoked_at=NOON)
        return self.kept[index]

    def close(self) -> None:
        """Nothing to close."""


class FakeServices(Services):
    """Combines the fakes. Tests can read whether the services were finished and closed."""

    clients: FakeClients
    samples: FakeSamples
    adaptation: FakeAdaptation
    prediction: FakePrediction
    explained: FakeExplained
    exports: FakeExports
    imports: FakeImports

    def __init__(self) -> None:
        self.clients = FakeClients()
        self.samples = FakeSamples(self.clients)
        self.kept_keys = FakeKeys()
        self.readiness = Readiness({"catalog": lambda: None})
        self.closed = False
        self.finished_within_s = 0.0
        self.kept_jobs = MemoryJobs(self.clients.publication)
        self.jobs = Jobs(self.kept_jobs)
        self.adaptation = FakeAdaptation(self.clients, self.jobs)
        self.prediction = FakePrediction(self.clients)
        self.explained = FakeExplained(self.prediction)
        self.judged = FakeJudged(self.clients)
        self.recorder = FakeRecorder()
        self.entries: list[AuditEntry] = []
        self.audit = self._audit
        self.exports = FakeExports(self.clients.version)
        held = FakeAdaptation(self.clients, self.jobs)
        held.decision = "hold"
        self.imports = FakeImports(held.submit)
        self.keys = KeyCache(self.kept_keys, open_without_keys=True)
        card = {"data": "generated", "accuracy": 0.5}
        self.checkpoints = CheckpointList(
            [CheckpointSummary("tiny", "a" * 64, {"kind": "conv4"}, {"steps": 5}, {"side": 32, "channels": 1}, card)]
        )
        self.metrics = lambda: {"weight_cache_hits_total": 3, **self.jobs.metrics()}
        self.finish = self._finish
        self.close = self._close

    def _audit(self, query: AuditQuery) -> tuple[AuditEntry, ...]:
        found = [each for each in reversed(self.entries) if query.before is None or each.id < query.before]
        return tuple(each for each in found if query.clients is None or each.client in query.clients)[: query.limit]

    def _finish(self, within_s: float) -> None:
        self.finished_within_s = within_s

    def _close(self) -> None:
        self.jobs.close()
        self.closed = True
