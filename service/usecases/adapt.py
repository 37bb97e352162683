"""POST /adapt: turns labelled images into a new version.

Decodes the images, joins them with the stored samples, adapts, cross-validates, applies the gate and stores the result.
Nothing is written before the adaptation has succeeded, so a request that fails leaves the client unchanged.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from torch import Tensor

from models.config import InnerLoopConfig
from models.errors import ImageDepthMismatch, InvalidConfig
from models.images.depth import common_depth
from models.validation.cross_validation import CrossValidatedAdaptation, CrossValidationSkipped
from models.validation.folds import group_samples
from service import tracing
from service.domain.client import ClientSettings, validate_client_name
from service.domain.gate import decide
from service.domain.job import JobUpdate, JobVersion, Origin
from service.domain.modality import modalities_of, require_taken
from service.domain.reason import Reason
from service.domain.report import build_report
from service.domain.version import (
    LIVE,
    Idempotency,
    Lineage,
    SampleRef,
    Version,
    VersionDraft,
)
from service.errors import (
    InvalidRequest,
    NothingToUpgrade,
    ParentSuperseded,
    SamplesNotKept,
    StoreUnavailable,
    UnknownCheckpoint,
    UnknownClient,
    VersionCorrupt,
    client_deleted,
    client_exists,
)
from service.runtime.adapt_queue import JobControl
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import DecodedImage, Decoder
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.version_store import VersionStore, encode_sample
from service.usecases.adapt_command import AcceptedRequest, AdaptCommand, AdaptOutcome, Decoding
from service.usecases.samples import (
    AdaptLimits,
    Sample,
    classes_of,
    join_samples,
    reject_conflicting_labels,
    validate_labels,
    validate_parts,
)

_MAX_SEED: Final = 2**63 - 1

_STAGES: Final = ("decode", "adapt", "examine", "store")

_ATTEMPTS: Final = 5
"""How often an extension is tried when other extensions of the same client are published in the meantime."""


class _Stopwatch:
    """Measures the seconds of each stage."""

    def __init__(self, decode_s: float = 0.0) -> None:
        self._last_s = time.monotonic()
        self._started_s = self._last_s - decode_s
        self._laps = {**dict.fromkeys(_STAGES, 0.0), "decode": decode_s}

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now_s = time.monotonic()
        tracing.record("prepare" if stage == "decode" else stage, self._last_s, now_s)  # images are decoded by now
        self._laps[stage] += now_s - self._last_s
        self._last_s = now_s

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, and in total."""
        return {**self._laps, "total": time.monotonic() - self._started_s}


@dataclass(frozen=True, slots=True)
class _Request:
    """A command that has been checked, with its images decoded.

    Attributes:
        bit_depth: that images of 16 bits per sample were scaled from, if they did not declare it; otherwise None.
        preliminary: whether another version follows.
    """

    command: AdaptCommand
    checkpoint: LoadedCheckpoint
    recipe: InnerLoopConfig
    samples: Sequence[Sample]
    bit_depth: int | None
    control: JobControl
    preliminary: bool = False

    @property
    def job(self) -> JobUpdate | None:
        """What becomes of the request's job with the version."""
        if self.command.job is None:
            return None
        made = self.control.first
        first = None if made is None else JobVersion(made.version.number, made.live)
        return JobUpdate(self.command.job, "running" if self.preliminary else "done", self.control.progress, first)

    def origin(self, client_created_at: datetime | None) -> Origin:
        """Return what must hold when the version is recorded."""
        return Origin(client_created_at, self.job, self.command.new_client)

    @property
    def seed(self) -> int:
        return self.command.seed or 0


class Adaptation:
    """Makes versions. Thread-safe.

    Args:
        store: stores samples, weights and versions.
        checkpoints: the checkpoints to adapt from; the client's setting `model` names one.
        decoder: decodes images.
        limits: limits of one adaptation.
    """

    def __init__(
        self,
        store: VersionStore,
        checkpoints: LoadedCheckpoints,
        decoder: Decoder,
        limits: AdaptLimits | None = None,
    ) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._decoder = decoder
        self._limits = limits or AdaptLimits()

    def accept(self, command: AdaptCommand, control: JobControl) -> AcceptedRequest:
        """Check a request as far as that needs neither images nor the store, and start to decode its images.

        Raises:
            InvalidName, NoSamples, LabelCountMismatch, PartCountMismatch, TooManyClasses, TooManySamples: the request
                is not valid by itself.
            Overloaded: the decoder was closed.
        """
        validate_client_name(command.client)
        count = len(command.uploads)
        stored_only = command.mode in ("upgrade", "correct")
        labels = [] if stored_only else validate_labels(command.labels, count, self._limits)
        parts = validate_parts(command.parts, count)
        if labels:
            uploads = [replace(upload, label=label) for upload, label in zip(command.uploads, labels, strict=True)]
            command = replace(command, uploads=tuple(uploads))
        images = self._decoder.submit(command.uploads, command.caller, control.limit_s)
        tracing.follow("decode", images)
        return AcceptedRequest(command, labels, parts, Decoding(images))

    def run(self, accepted: AcceptedRequest, control: JobControl) -> AdaptOutcome:
        """Make a new version. Blocks; reports its progress to `control`, which may also stop it.

        Raises:
            InvalidRequest (and its subclasses): the request is not valid, by itself or together with the stored
                samples.
            UnknownCheckpoint: the service does not offer the model that the client's settings name.
            UnknownClient, NothingToUpgrade: there is nothing to upgrade.
            UnknownClient, UnknownSample: there is nothing to correct.
            ImageRejected: a file is not an acceptable image; the message starts with its name and its class.
            AdaptationDiverged: the weights are not finite.
            ClientDeleted: the client was deleted since the request named it; nothing of the request is stored.
            ClientExists: the request was to create the client; nothing of it is stored.
            StoreFull, StoreUnavailable: no version was made.
            And the error that `control` is stopped with; then no version was made either.
        """
        command, clock = accepted.command, _Stopwatch(accepted.decoding.seconds)
        checkpoint = self._checkpoint(command.client)
        recipe = self._recipe(command, checkpoint.checkpoint.recipe)
        offered = checkpoint.checkpoint
        require_taken(offered.net_config, offered.name, [upload.second for upload in command.uploads])
        control.enter("decode")
        decoded = accepted.decoding.images.result()
        bit_depth = self._common_depth(command, decoded)
        samples = [
            _sample(upload.at_depth(image, bit_depth), SampleRef("", label, upload.name, part, upload.second))
            for image, label, upload, part in zip(
                decoded, accepted.labels, command.uploads, accepted.parts, strict=True
            )
        ]
        reject_conflicting_labels(samples)
        request = _Request(command, checkpoint, recipe, samples, bit_depth, control)
        clock.lap("decode")
        if command.first is not None and recipe.steps > 0:
            first = replace(command, idempotency=_first_key(command.idempotency))
            made = self._recalled(first)
            if made is None:
                quick = replace(request, command=first, recipe=replace(recipe, steps=0), preliminary=True)
                made = self._make_version(quick, clock)
            control.publish_first(made)
            request = replace(request, command=replace(command, new_client=False))  # it is not any more
            clock = _Stopwatch()
        return self._make_version(request, clock)

    def _recalled(self, command: AdaptCommand) -> AdaptOutcome | None:
        """Return the preliminary version that an earlier attempt at the same request has made, if any."""
        if command.idempotency is None:
            return None
        earlier = self._store.catalog.recall(command.client, command.idempotency)
        return None if earlier is None else AdaptOutcome.of(earlier)

    def _make_version(self, request: _Request, clock: _Stopwatch) -> AdaptOutcome:
        """Make a version. If that fails, what was stored for it is deleted again."""
        written: set[str] = set()
        try:
            for _ in range(_ATTEMPTS - 1):
                with suppress(ParentSuperseded):
                    return self._attempt(request, clock, written)
            return self._attempt(request, clock, written)
        except BaseException:
            if written:
                with suppress(StoreUnavailable, VersionCorrupt):  # the first error is the one to report
                    self._store.discard(request.command.client, written)
            raise

    def _attempt(self, request: _Request, clock: _Stopwatch, written: set[str]) -> AdaptOutcome:
        """Adapt on the samples that are stored now and those of the request. `written` gets the digests of new blobs.

        Raises:
            ParentSuperseded: another extension was published in the meantime.
            ClientDeleted: the client was deleted in the meantime.
        """
        command, control, checkpoint = request.command, request.control, request.checkpoint
        control.enter("adapt")
        extends = command.mode != "replace"
        lineage = self._lineage(request)
        created_at = command.client_created_at or lineage.client_created_at
        parent = lineage.base if extends else None
        kept = self._kept_samples(command, parent)
        samples = join_samples(kept, request.samples)
        classes = classes_of(samples, self._limits)
        images, recipe = [sample.image for sample in samples], request.recipe
        labels = [classes.index(sample.ref.label) for sample in samples]
        settings = self._settings(command.client)
        # Features are kept only of samples that are kept, and by client, so that none can time what others sent.
        keys = [(command.client, sample.ref.digest) for sample in samples] if settings.retain_samples else None
        support = checkpoint.support(images, labels, len(classes), control, keys, [each.ref.second for each in samples])
        groups = group_samples(images, [sample.ref.part for sample in samples], flips=recipe.flip_augment)
        candidate, batched_with = checkpoint.adapt_with_folds(support, groups, recipe, request.seed, control)
        clock.lap("adapt")
        control.enter("examine")
        settings = self._settings(command.client)
        scored = checkpoint.cross_validate(candidate, settings.unknown_rate)
        validated = CrossValidatedAdaptation(candidate.adapted, scored)
        clock.lap("examine")
        control.enter("store")
        if not extends:  # an extension is not recorded if there is another base by then
            lineage = self._lineage(request)
        draft = VersionDraft(
            client=command.client,
            parent=None if parent is None else parent.number,
            classes=classes,
            samples=tuple(sample.ref for sample in samples),
            meta_model=checkpoint.checkpoint.name,
            meta_model_digest=checkpoint.digest,
            recipe=candidate.recipe.to_json(),
            seed=request.seed,
            weights_digest="",
            weights_bytes=0,
            device=checkpoint.device.type,
            batched_with=batched_with,
            report=_report(request, validated, samples, classes, parent),
            samples_kept=settings.retain_samples,
        )
        notes = _notes(request, parent, classes, copies=len(kept) + len(request.samples) - len(samples))
        decision = decide(command.publish, draft, settings, lineage, _skipped(validated), notes)
        draft = self._store_content(draft, samples, checkpoint.delta(candidate.adapted), written)
        clock.lap("store")
        draft = replace(draft, report={**draft.report, "gate": decision.to_json(), "seconds": clock.seconds()})
        aliases = () if decision.decision == "hold" else (LIVE,)
        with control.committing():
            published = self._store.publish(
                draft, aliases, command.idempotency, extends=extends, origin=request.origin(created_at)
            )
        return AdaptOutcome(published.version, LIVE in aliases, published.live, lineage.compared)

    def _lineage(self, request: _Request) -> Lineage:
        """Return the client's versions that matter to the new one.

        Raises:
            ClientDeleted: the client is not the one that existed when the request named it.
            ClientExists: the request was to create the client.
            UnknownClient, NothingToUpgrade: for an upgrade.
        """
        client = request.command.client
        lineage = self._store.catalog.lineage(client)
        if request.command.new_client and lineage.client_created_at is not None:
            raise client_exists(client)
        if request.command.client_created_at not in (None, lineage.client_created_at):
            raise client_deleted(client)
        if request.command.mode == "correct" and lineage.base is None:
            self._store.catalog.client(client)  # raises UnknownClient
        if request.command.mode != "upgrade":
            return lineage
        current = lineage.compared
        if current is None:
            self._store.catalog.client(client)  # raises UnknownClient
            raise NothingToUpgrade(f"client {client!r} has no version; adapt it first")
        alike = current.draft.recipe.get("uncertainty", "point") == request.recipe.uncertainty
        if current.draft.meta_model_digest == request.checkpoint.digest and alike:
            raise NothingToUpgrade(
                f"version {current.number} of client {client!r} was adapted from the client's current model already, "
                f"{current.draft.meta_model!r}, with its `uncertainty`; to choose others, change these settings"
            )
        return lineage

    def _checkpoint(self, client: str) -> LoadedCheckpoint:
        """Return the checkpoint that the client's setting names. Raises UnknownCheckpoint."""
        name = self._settings(client).model
        try:
            return self._checkpoints.named(name)
        except UnknownCheckpoint as error:
            raise UnknownCheckpoint(
                f"client {client!r} has the setting model={name!r}, but {error}; change the setting, or start the "
                "service with that model too"
            ) from error

    def _recipe(self, command: AdaptCommand, default: InnerLoopConfig) -> InnerLoopConfig:
        steps, seed, uncertainty = command.steps, command.seed, self._settings(command.client).uncertainty
        if steps is not None and not 0 <= steps <= self._limits.max_steps:
            raise InvalidRequest(f"steps is {steps}; use 0 to {self._limits.max_steps}")
        if seed is not None and not 0 <= seed <= _MAX_SEED:
            raise InvalidRequest(f"seed is {seed}; use 0 to {_MAX_SEED}")
        try:
            recipe = default.adjusted(steps, command.learning_rate)
            return recipe if uncertainty is None else replace(recipe, uncertainty=uncertainty)
        except InvalidConfig as error:
            raise InvalidRequest(str(error)) from error

    def _common_depth(self, command: AdaptCommand, images: Sequence[DecodedImage]) -> int | None:
        """Return the bit depth for the images that do not declare theirs; None if all do and the client has none.

        It is that of the client's settings, or of the version that is extended, or the smallest that holds all of them.
        """
        chosen = self._settings(command.client).bit_depth
        smallest = common_depth(image.bit_depth for image in images)
        base = None if command.mode == "replace" else self._store.catalog.lineage(command.client).base
        if smallest is None:  # no image of the request needs one
            return _bit_depth(base) or chosen
        return chosen or _bit_depth(base) or smallest

    def _kept_samples(self, command: AdaptCommand, parent: Version | None) -> list[Sample]:
        """Read the samples of the version that is extended, as corrected.

        Raises:
            SamplesNotKept: the client's settings retain no samples.
            UnknownSample, NothingToCorrect, TooFewClasses: see `Corrections.apply`.
            VersionCorrupt, StoreUnavailable: a sample cannot be read.
        """
        client, kept = command.client, () if parent is None else parent.draft.samples
        if parent is not None and not parent.draft.samples_kept:
            raise SamplesNotKept(
                f"version {parent.number} of client {client!r} has no stored samples (because of the client's setting "
                "retain_samples, or because it was imported), so it cannot be extended or upgraded; send the "
                "samples of every class together, with mode=replace"
            )
        if command.corrections is not None:
            kept = command.corrections.apply(client, kept)
        return [Sample(ref, self._store.sample(client, ref.digest)) for ref in kept]

    def _settings(self, client: str) -> ClientSettings:
        try:
            return self._store.catalog.settings(client)
        except UnknownClient:
            return ClientSettings()

    def _store_content(
        self, draft: VersionDraft, samples: Sequence[Sample], delta: Mapping[str, Tensor], written: set[str]
    ) -> VersionDraft:
        """Store samples and weights, and return the draft with the digest and size of the weights."""
        if draft.samples_kept:
            new = [sample.to_store for sample in samples if sample.to_store is not None]
            written.update(sample.digest for sample in new)
            self._store.put_samples(draft.client, new)
        metadata = {
            "meta_model": draft.meta_model,
            "meta_model_digest": draft.meta_model_digest,
            "temperature": repr(draft.report["temperature"]),  # so that the digest covers all a prediction depends on
        }
        if draft.report["bit_depth"] is not None:
            metadata["bit_depth"] = str(draft.report["bit_depth"])
        digest, size_bytes = self._store.put_weights(draft.client, delta, metadata)
        written.add(digest)
        return replace(draft, weights_digest=digest, weights_bytes=size_bytes)


def _first_key(key: Idempotency | None) -> Idempotency | None:
    """Return the key of the preliminary version. No sender can choose it, because it contains a blank."""
    return None if key is None else replace(key, key=f"first {hashlib.sha256(key.key.encode()).hexdigest()}")


def _sample(image: Tensor, ref: SampleRef) -> Sample:
    encoded = encode_sample(image)
    return Sample(replace(ref, digest=encoded.digest), image, encoded)


def _report(
    request: _Request,
    validated: CrossValidatedAdaptation,
    samples: Sequence[Sample],
    classes: Sequence[str],
    parent: Version | None,
) -> dict[str, Any]:
    refs, config = [sample.ref for sample in samples], request.checkpoint.checkpoint.net_config
    modalities = modalities_of(config, [ref.second for ref in refs])
    return build_report(validated, refs, classes, _joined_depth(parent, request.bit_depth), modalities)


def _bit_depth(version: Version | None) -> int | None:
    return None if version is None else version.draft.report.get("bit_depth")


def _joined_depth(parent: Version | None, bit_depth: int | None) -> int | None:
    """Return the bit depth of an extension. Raises ImageDepthMismatch if its samples differ in it."""
    earlier = _bit_depth(parent)
    if earlier is None or bit_depth in (None, earlier):
        return earlier if bit_depth is None else bit_depth
    raise ImageDepthMismatch(
        f"the stored images of the client were scaled from {earlier} bits, and those of the request from {bit_depth}; "
        f"send all samples again, with mode=replace, or set the client's bit_depth to {earlier} again"
    )


def _skipped(validated: CrossValidatedAdaptation) -> CrossValidationSkipped | None:
    found = validated.validation
    return found if isinstance(found, CrossValidationSkipped) else None


def _notes(request: _Request, parent: Version | None, classes: Sequence[str], copies: int) -> list[Reason]:
    """What the sender may not expect. `copies` counts the files that add no sample."""
    command, recipe, notes = request.command, request.recipe, list[Reason]()
    if command.corrections is not None and parent is not None:
        notes += command.corrections.notes(parent.draft.classes, classes)
    if copies:
        total = len(request.samples)
        text = f"files that repeat a picture: {copies} of {total}; a picture counts once, with its latest label"
        notes.append(Reason("repeated_files", text, {"copies": copies, "files": total}))
    if recipe.steps == 0 and command.first is not None:
        text = "without inner steps, first=prototypes makes no version of its own"
        notes.append(Reason("first_without_effect", text))
    if recipe.steps == 0 and command.learning_rate is not None:
        notes.append(Reason("learning_rate_without_effect", "without inner steps, learning_rate has no effect"))
    if recipe.steps > 0 and recipe.head == "lda":
        model = request.checkpoint.checkpoint.name
        text = f"steps={recipe.steps} changes next to nothing: the model {model!r} computes its head in closed form"
        notes.append(Reason("steps_without_effect", text, {"steps": recipe.steps, "model": model}))
    return notes
