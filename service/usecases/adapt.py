"""Use case: labelled images in, an examined version out. Decode, join with what is kept, adapt, examine, store.

Nothing is written before the adaptation has succeeded, so a request that fails leaves the client as it was.
It refuses to know HTTP, databases and how an inner loop works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from models.config import InnerLoopConfig
from models.errors import InvalidConfig
from models.validation.cross_validation import CrossValidatedAdaptation, CrossValidationSkipped
from service.domain.client import ClientSettings
from service.domain.gate import decide
from service.domain.names import validate_client_name
from service.domain.report import build_report
from service.domain.version import LIVE, Idempotency, Version, VersionDraft
from service.errors import InvalidRequest, ParentSuperseded, UnknownClient
from service.runtime.decoding.decoder import Decoder
from service.runtime.job_control import JobControl
from service.runtime.loaded_checkpoint import LoadedCheckpoints
from service.runtime.stopwatch import Stopwatch
from service.store.version_store import VersionStore
from service.usecases.samples import Sample, Samples, joined
from service.usecases.uploads import Upload

_MAX_SEED = 2**63 - 1

_PARTS = ("decode", "adapt", "examine", "store")

_ATTEMPTS = 5
"""How often an extension starts again because another one of the same client was published in the meantime."""


@dataclass(frozen=True, slots=True)
class AdaptCommand:
    """What a client asks for.

    Attributes:
        client: client name.
        uploads: image files.
        labels: class names, one an upload, in the same order.
        mode: "extend" joins the samples with those of the live version (the latest, if none is live); "replace"
            starts afresh.
        steps: inner steps; None takes the checkpoint's recipe.
        learning_rate: of the inner loop; None takes the checkpoint's recipe.
        seed: of the inner loop's draws; None is 0.
        first: "prototypes": make a version without inner steps before the one that is asked for, as an answer within a
            fraction of a second; examined like any other.
        publish: "auto" leaves it to the gate, "always" makes the version live, "never" keeps it aside.
        idempotency: recorded with the version, so that a repeated request finds it.
    """

    client: str
    uploads: tuple[Upload, ...]
    labels: tuple[str, ...]
    mode: Literal["extend", "replace"] = "extend"
    steps: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    first: Literal["prototypes"] | None = None
    publish: Literal["auto", "always", "never"] = "auto"
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class AdaptOutcome:
    """What came of it.

    Attributes:
        version: the new version, its report inside.
        published: whether it went live.
        live: the version that is live now, or None.
    """

    version: Version
    published: bool
    live: int | None


@dataclass(frozen=True, slots=True)
class AdaptLimits:
    """Bounds of one adaptation: classes and samples of a version, kept ones included, and inner steps."""

    max_classes: int = 64
    max_samples: int = 2000
    max_steps: int = 100


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A command with its recipe and seed, which are within bounds."""

    command: AdaptCommand
    recipe: InnerLoopConfig
    seed: int


class Adaptation:
    """Adapts, for several clients at the same time.

    Args:
        store: where samples, weights and versions are kept.
        learners: the meta-trained start to adapt from, and those of earlier versions.
        decoder: turns bytes into images.
        limits: of one adaptation.
    """

    def __init__(
        self,
        store: VersionStore,
        learners: LoadedCheckpoints,
        decoder: Decoder,
        limits: AdaptLimits | None = None,
    ) -> None:
        self._store = store
        self._learners = learners
        self._limits = limits or AdaptLimits()
        self._samples = Samples(store, decoder, self._limits.max_classes, self._limits.max_samples)

    def run(self, command: AdaptCommand, ticket: JobControl) -> AdaptOutcome:
        """Make a new version; `ticket` is told how far it is, and may stop it. Blocks.

        Raises:
            InvalidName, InvalidRequest (and its subclasses): the request does not fit together, or not with what is
                kept.
            ImageRejected: a file that is no acceptable image; the message begins with its name.
            AdaptationDiverged: no finite weights came of it.
            StoreFull, StoreUnavailable: nothing was recorded.
            And whatever the ticket is stopped with: nothing was recorded either.
        """
        clock = Stopwatch(_PARTS)
        validate_client_name(command.client)
        wanted = _Wanted(command, *self._recipe(command))
        ticket.enter("decode")
        labels = self._samples.labels(command.uploads, command.labels)
        new = self._samples.decoded(command.uploads, labels)
        clock.lap("decode")
        if command.first is not None:
            unnamed = replace(command, idempotency=None)
            at_once = _Wanted(unnamed, replace(wanted.recipe, steps=0), wanted.seed)
            ticket.publish_first(self._made(at_once, new, clock, ticket))
            clock = Stopwatch(_PARTS)
        return self._made(wanted, new, clock, ticket)

    def _made(self, wanted: _Wanted, new: Sequence[Sample], clock: Stopwatch, ticket: JobControl) -> AdaptOutcome:
        for _ in range(_ATTEMPTS - 1):
            with suppress(ParentSuperseded):
                return self._attempt(wanted, new, clock, ticket)
        return self._attempt(wanted, new, clock, ticket)

    def _attempt(self, wanted: _Wanted, new: Sequence[Sample], clock: Stopwatch, ticket: JobControl) -> AdaptOutcome:
        """Adapt on what is kept now and `new`; raises ParentSuperseded if another extension was faster."""
        command, recipe, seed = wanted.command, wanted.recipe, wanted.seed
        ticket.enter("adapt")
        parent = self._store.base(command.client) if command.mode == "extend" else None
        samples = joined(self._samples.kept(parent), new)
        classes = self._samples.classes(samples)
        learner = self._learners.current
        images = [sample.image for sample in samples]
        support = learner.support(images, [classes.index(sample.ref.label) for sample in samples], len(classes))
        candidate, batched_with = learner.adapt_with_folds(support, images, recipe, seed, ticket)
        clock.lap("adapt")
        ticket.enter("examine")
        examined = CrossValidatedAdaptation(candidate.adapted, learner.cross_validate(candidate))
        clock.lap("examine")
        ticket.enter("store")
        chosen, earlier = self._settings(command.client), parent or self._store.base(command.client)
        draft = VersionDraft(
            client=command.client,
            parent=None if parent is None else parent.number,
            classes=classes,
            samples=tuple(sample.ref for sample in samples),
            meta_model=learner.checkpoint.name,
            meta_model_digest=learner.digest,
            recipe=recipe.to_json(),
            seed=seed,
            weights_digest="",
            weights_bytes=0,
            device=learner.device.type,
            batched_with=batched_with,
            report=build_report(examined, [sample.ref for sample in samples], classes),
            samples_kept=chosen.retain_samples,
        )
        draft = _through_gate(command, draft, chosen, earlier, examined)
        draft = self._stored(draft, (samples, learner.delta(candidate.adapted)), clock)
        aliases = () if draft.report["gate"]["decision"] == "hold" else (LIVE,)
        with ticket.committing():
            made = self._store.publish(draft, aliases, command.idempotency, extends=command.mode == "extend")
        return AdaptOutcome(made.version, LIVE in aliases, made.live)

    def _recipe(self, command: AdaptCommand) -> tuple[InnerLoopConfig, int]:
        steps, seed = command.steps, 0 if command.seed is None else command.seed
        if steps is not None and not 0 <= steps <= self._limits.max_steps:
            raise InvalidRequest(f"steps is {steps}; allowed: 0 to {self._limits.max_steps}")
        if not 0 <= seed <= _MAX_SEED:
            raise InvalidRequest(f"seed is {seed}; allowed: 0 to {_MAX_SEED}")
        try:
            return self._learners.current.checkpoint.recipe.adjusted(steps, command.learning_rate), seed
        except InvalidConfig as error:
            raise InvalidRequest(str(error)) from error

    def _settings(self, client: str) -> ClientSettings:
        try:
            return self._store.settings(client)
        except UnknownClient:
            return ClientSettings()

    def _stored(
        self, draft: VersionDraft, content: tuple[Sequence[Sample], Mapping[str, Tensor]], clock: Stopwatch
    ) -> VersionDraft:
        """Put samples and weights where a version may refer to them; the draft with what they are called."""
        samples, delta = content
        if draft.samples_kept:
            self._store.put_samples(draft.client, [sample.image for sample in samples])
        metadata = {
            "meta_model": draft.meta_model,
            "meta_model_digest": draft.meta_model_digest,
            "temperature": repr(draft.report["temperature"]),  # the digest names all that a prediction depends on
        }
        digest, size_bytes = self._store.put_weights(draft.client, delta, metadata)
        clock.lap("store")
        report = {**draft.report, "seconds": clock.laps()}
        return replace(draft, weights_digest=digest, weights_bytes=size_bytes, report=report)


def _through_gate(
    command: AdaptCommand,
    draft: VersionDraft,
    settings: ClientSettings,
    earlier: Version | None,
    examined: CrossValidatedAdaptation,
) -> VersionDraft:
    """The draft with the gate's decision in its report."""
    found = examined.validation
    why = found.reason if isinstance(found, CrossValidationSkipped) else None
    decision = decide(command.publish, draft, settings, earlier, why)
    return replace(draft, report={**draft.report, "gate": decision.to_json()})
