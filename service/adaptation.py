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

from models.errors import InvalidRecipe
from models.examine import Examined, NoExamination
from models.recipe import InnerLoop
from service.choices import ClientSettings
from service.domain import LIVE, Idempotency, SampleRef, Version, VersionDraft, client_name, label_name
from service.engine.decoder import Decoder
from service.engine.learner import Learners
from service.engine.stopwatch import Stopwatch
from service.engine.turns import Turns
from service.errors import (
    InvalidRequest,
    LabelCountMismatch,
    NoSamples,
    ParentSuperseded,
    SamplesNotKept,
    TooFewClasses,
    TooManyClasses,
    TooManySamples,
    UnknownClient,
)
from service.examination import findings
from service.gate import decide
from service.store.weight_store import WeightStore
from service.uploads import Upload, decode_upload

_MAX_SEED = 2**63 - 1

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
class _Sample:
    """A labelled canonical image, uint8 (channels, height, width), kept already or new."""

    ref: SampleRef
    image: Tensor


class Adaptation:
    """Adapts for one client at a time; blocks, so call it in a worker thread.

    Args:
        store: where samples, weights and versions are kept.
        learners: the meta-trained start to adapt from, and those of earlier versions.
        decoder: turns bytes into images.
        limits: of one adaptation.
        turns: how many run at the same time; the others wait.
    """

    def __init__(
        self,
        store: WeightStore,
        learners: Learners,
        decoder: Decoder,
        limits: AdaptLimits | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._store = store
        self._learners = learners
        self._decoder = decoder
        self._limits = limits or AdaptLimits()
        self._turns = turns or Turns(1)

    def run(self, command: AdaptCommand) -> AdaptOutcome:
        """Make a new version, when it is this request's turn.

        Raises:
            InvalidName, InvalidRequest (and its subclasses): the request does not fit together.
            ImageRejected: a file that is no acceptable image; the message begins with its name.
            AdaptationDiverged: no finite weights came of it.
            StoreFull, StoreUnavailable: nothing was recorded.
        """
        with self._turns.taken():
            return self._run(command)

    def _run(self, command: AdaptCommand) -> AdaptOutcome:
        clock = Stopwatch(("decode", "adapt", "examine", "store"))
        client_name(command.client)
        recipe, seed = self._recipe(command)
        new = self._decode(command)
        clock.lap("decode")
        for _ in range(_ATTEMPTS - 1):
            with suppress(ParentSuperseded):
                return self._attempt(command, new, (recipe, seed), clock)
        return self._attempt(command, new, (recipe, seed), clock)

    def _attempt(
        self, command: AdaptCommand, new: Sequence[_Sample], settings: tuple[InnerLoop, int], clock: Stopwatch
    ) -> AdaptOutcome:
        """Adapt on what is kept now and `new`; raises ParentSuperseded if another extension was faster."""
        recipe, seed = settings
        parent = self._store.base(command.client) if command.mode == "extend" else None
        samples = _joined(self._kept(parent), new)
        classes = self._classes(samples)
        learner = self._learners.current
        images = [sample.image for sample in samples]
        support = learner.support(images, [classes.index(sample.ref.label) for sample in samples], len(classes))
        candidate = learner.adapt_with_folds(support, images, recipe, seed)
        clock.lap("adapt")
        examined = Examined(candidate.adapted, learner.conclude(candidate))
        clock.lap("examine")
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
            batched_with=candidate.batched_with,
            report=findings(examined, [sample.ref for sample in samples], classes),
            samples_kept=chosen.retain_samples,
        )
        draft = _through_gate(command, draft, chosen, earlier, examined)
        return self._publish(command, draft, (samples, learner.delta(candidate.adapted)), clock)

    def _recipe(self, command: AdaptCommand) -> tuple[InnerLoop, int]:
        steps, seed = command.steps, 0 if command.seed is None else command.seed
        if steps is not None and not 0 <= steps <= self._limits.max_steps:
            raise InvalidRequest(f"steps is {steps}; allowed: 0 to {self._limits.max_steps}")
        if not 0 <= seed <= _MAX_SEED:
            raise InvalidRequest(f"seed is {seed}; allowed: 0 to {_MAX_SEED}")
        try:
            return self._learners.current.checkpoint.recipe.adjusted(steps, command.learning_rate), seed
        except InvalidRecipe as error:
            raise InvalidRequest(str(error)) from error

    def _decode(self, command: AdaptCommand) -> list[_Sample]:
        """Decode the samples, after every check that needs no pixel."""
        labels = self._labels(command)
        samples = []
        for upload, label in zip(command.uploads, labels, strict=True):
            image = decode_upload(upload, self._decoder)
            samples.append(_Sample(SampleRef(self._store.sample_digest(image), label, upload.name), image))
        return samples

    def _labels(self, command: AdaptCommand) -> list[str]:
        if not command.uploads:
            raise NoSamples("no samples came; send at least one image with its label")
        if len(command.labels) != len(command.uploads):
            raise LabelCountMismatch(
                f"{len(command.uploads)} samples came with {len(command.labels)} labels; send one label a sample, "
                "in the same order"
            )
        labels = [label_name(text) for text in command.labels]
        self._refuse_more_than_allowed(len(set(labels)), len(labels))
        return labels

    def _refuse_more_than_allowed(self, classes: int, samples: int) -> None:
        if classes > self._limits.max_classes:
            raise TooManyClasses(f"{classes} classes after this request; at most {self._limits.max_classes}")
        if samples > self._limits.max_samples:
            raise TooManySamples(
                f"{samples} samples after this request, kept ones included; at most {self._limits.max_samples}: send "
                "fewer, or start afresh with mode=replace"
            )

    def _kept(self, parent: Version | None) -> list[_Sample]:
        if parent is None:
            return []
        client = parent.draft.client
        if not parent.draft.samples_kept:
            raise SamplesNotKept(
                f"client {client!r} keeps no samples (its setting retain_samples), so its version {parent.number} "
                "cannot be extended; send the samples of every class together, with mode=replace"
            )
        return [_Sample(ref, self._store.sample(client, ref.digest)) for ref in parent.draft.samples]

    def _settings(self, client: str) -> ClientSettings:
        try:
            return self._store.settings(client)
        except UnknownClient:
            return ClientSettings()

    def _classes(self, samples: Sequence[_Sample]) -> tuple[str, ...]:
        classes = tuple(dict.fromkeys(sample.ref.label for sample in samples))
        if len(classes) < 2:
            raise TooFewClasses(
                f"only the class {classes[0]!r} is known after this request; send samples of at least two classes"
            )
        self._refuse_more_than_allowed(len(classes), len(samples))
        return classes

    def _publish(
        self,
        command: AdaptCommand,
        draft: VersionDraft,
        content: tuple[Sequence[_Sample], Mapping[str, Tensor]],
        clock: Stopwatch,
    ) -> AdaptOutcome:
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
        draft = replace(draft, weights_digest=digest, weights_bytes=size_bytes, report=report)
        aliases = () if report["gate"]["decision"] == "hold" else (LIVE,)
        publication = self._store.publish(draft, aliases, command.idempotency, extends=command.mode == "extend")
        return AdaptOutcome(publication.version, LIVE in aliases, publication.live)


def _joined(kept: Sequence[_Sample], new: Sequence[_Sample]) -> list[_Sample]:
    """Kept samples, then new ones; an image that comes again counts once, under the label given last."""
    by_digest: dict[str, _Sample] = {}
    for sample in [*kept, *new]:
        by_digest[sample.ref.digest] = sample
    return list(by_digest.values())


def _through_gate(
    command: AdaptCommand, draft: VersionDraft, settings: ClientSettings, earlier: Version | None, examined: Examined
) -> VersionDraft:
    """The draft with the gate's decision in its report."""
    found = examined.examination
    why = found.reason if isinstance(found, NoExamination) else None
    decision = decide(command.publish, draft, settings, earlier, why)
    return replace(draft, report={**draft.report, "gate": decision.to_json()})
